"""The command `mlx-medlora`. Commands import what is heavy only when they run: --help stays quick."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mlx_medlora import __version__, network, privacy
from mlx_medlora.backend import refuse_tight_limit
from mlx_medlora.cli import (
    bench,
    calibrate,
    compare,
    convert,
    demo,
    doctor,
    errors,
    eval,
    exchange,
    fuse,
    generate,
    heatmaps,
    parity,
    plan,
    prepare,
    report,
    train,
)
from mlx_medlora.cli.options import examples
from mlx_medlora.cli.output import out
from mlx_medlora.errors import MedloraError

app = typer.Typer(
    name="mlx-medlora",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "mlx-medlora demo --output demo",
        "mlx-medlora convert google/medgemma-4b-it models/medgemma-4b --bits 4",
        "mlx-medlora train --model models/medgemma-4b --data lora_training --output adapters/first",
    ),
)

for group in (
    *(demo, convert, prepare, plan, train, eval, report, compare, heatmaps, calibrate, generate),
    *(fuse, exchange, parity, bench, doctor),
):
    group.add_to(app)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"mlx-medlora {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Fine-tune MedGemma with LoRA to detect clinical errors, and measure what it learned.

    Research tool, not a medical device.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (sys.argv's where None), say any error, return the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    before = _take_terminate_as_ctrl_c()
    try:
        refuse_tight_limit()
        status = app(args=given or ["--help"], prog_name="mlx-medlora", standalone_mode=False, obj=given)
    except (Exception, KeyboardInterrupt) as error:
        return _say(error)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
        out.reset()
        network.forbid(False)
        privacy.forget()
    if status == errors.INTERRUPTED:  # Typer turns Ctrl-C into this status
        return _say(KeyboardInterrupt())
    return status if isinstance(status, int) else 0


def _say(error: BaseException) -> int:
    """Say what ended the command, whole: a second Ctrl-C or SIGTERM meanwhile changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        return errors.say(error)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return errors.say(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_terminate_as_ctrl_c() -> Any:
    """Let SIGTERM end a command as Ctrl-C does, its partial output removed; what handled it before, if known.

    Training has a handler of its own, which saves the run first. A command that already ends with an error
    goes on to say that one: mlx.launch sends SIGTERM to the ranks whose peer is gone.
    """
    if threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(*_: object) -> None:
        if not isinstance(sys.exc_info()[1], MedloraError):
            raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


def main() -> None:
    """The console script's entry."""
    sys.exit(run())


if __name__ == "__main__":
    main()
