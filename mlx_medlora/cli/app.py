"""The command `mlx-medlora`. Commands import what is heavy only when they run: --help stays quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

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
from mlx_medlora.cli.signals import Signals, end_without_a_word

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
    with Signals() as signals:
        try:
            refuse_tight_limit()
            status = app(args=given or ["--help"], prog_name="mlx-medlora", standalone_mode=False, obj=given)
            signals.ended = True
        except (Exception, KeyboardInterrupt) as error:
            signals.ended = True
            return errors.say(error)
        finally:
            out.reset()
            network.forbid(False)
            privacy.forget()
        if status == errors.INTERRUPTED:  # Typer turns Ctrl-C into this status
            return errors.say(KeyboardInterrupt())
        return status if isinstance(status, int) else 0


def main() -> None:
    """The console script's entry."""
    try:
        status = run()
        end_without_a_word()
    except KeyboardInterrupt:  # before the command began, or after it had said all
        status = errors.INTERRUPTED
    sys.exit(status)


if __name__ == "__main__":
    main()
