import errno
import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import typer

from mlx_medlora.cli import app as app_module
from mlx_medlora.cli import errors as errors_module
from mlx_medlora.cli.errors import report
from mlx_medlora.errors import GateNotMet, InputError, Interrupted, MedloraError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no such file", path="a.csv", line=3), 2, "a.csv:3: no such file"),
        (MedloraError("it broke"), 1, "it broke"),
        (GateNotMet("accuracy under 0.9"), 3, "accuracy under 0.9"),
        (Interrupted("saved"), 130, "saved"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out/w"), 2, "out/w: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "secret"), 2, "secret: Permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "gone"), 2, "gone: No such file"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "long"), 2, "long: File name too long"),
        (OSError("plain"), 1, "internal error: OSError: plain"),
        (ZeroDivisionError("division by zero"), 1, "internal error: ZeroDivisionError: division by zero"),
        (ValueError(), 1, "internal error: ValueError: no message"),
    ],
)
def test_the_table(error: BaseException, status: int, message: str) -> None:
    found = report(error)
    assert found.status == status
    assert found.message.startswith(message)


def test_what_is_no_error_passes_through() -> None:
    with pytest.raises(SystemExit):
        report(SystemExit(4))


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Replaces the app by one whose command `fail` raises what is put into this list."""
    raised: list[BaseException] = []
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)

    @app.callback()
    def group() -> None:
        pass

    @app.command()
    def fail() -> None:
        raise raised[0]

    monkeypatch.setattr(app_module, "app", app)
    monkeypatch.delenv("MEDLORA_DEBUG", raising=False)
    return raised


def test_an_error_says_what_to_do_next(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing.append(InputError("wrong", path=Path("x"), hint="Mend it."))
    assert app_module.run(["fail"]) == 2
    assert capsys.readouterr().err == "Error: x: wrong\nHint: Mend it.\n"


def test_a_bug_shows_its_traceback_only_when_asked(
    failing: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing.append(ZeroDivisionError("oh\nno"))
    assert app_module.run(["fail"]) == 1
    quiet = capsys.readouterr().err
    assert quiet.startswith("Error: internal error: ZeroDivisionError: oh no\nHint: ")
    assert "MEDLORA_DEBUG=1" in quiet
    assert "Traceback" not in quiet
    monkeypatch.setenv("MEDLORA_DEBUG", "1")
    assert app_module.run(["fail"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_130(failing: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing.append(KeyboardInterrupt())
    assert app_module.run(["fail"]) == 130
    assert capsys.readouterr().err == "Error: interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_an_error_is_said_changes_nothing(
    failing: list[BaseException], monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            signal.raise_signal(number)
            return super().write(text)

    said = Interrupting()
    monkeypatch.setattr(sys, "stderr", said)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for error, status in ((MedloraError("the peer is gone"), 1), (KeyboardInterrupt(), 130)):
        failing[:] = [error]
        assert app_module.run(["fail"]) == status
    assert said.getvalue() == "Error: the peer is gone\nError: interrupted\n"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that reached the handlers which this process had before a command ran."""
    numbers: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: numbers.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


def signalled(number: signal.Signals, at: int) -> tuple[int, int]:
    """The status of `fail` with a signal before line `at` of ours after its error; how many lines there were.

    After it was raised for SIGTERM; after the saying of it began for Ctrl-C.
    """
    first = app_module.run if number == signal.SIGTERM else errors_module.say
    event_of_first = "exception" if number == signal.SIGTERM else "call"
    lines, begun = 0, False

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines, begun
        begun = begun or (frame.f_code is first.__code__ and event == event_of_first)
        if begun and event == "line" and "mlx_medlora" in frame.f_code.co_filename:
            lines += 1
            if lines == at:
                signal.raise_signal(number)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return app_module.run(["fail"]), lines
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_no_line_after_the_error_replaces_it(
    failing: list[BaseException],
    heard: list[int],
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    failing.append(MedloraError("the peer is gone"))
    lines = at = 1
    while at <= lines:
        status, lines = signalled(number, at)
        assert (status, capsys.readouterr().err) == (1, "Error: the peer is gone\n"), at
        at += 1
    assert at > 20
    assert heard  # at the last lines, where the handlers are those of before again


def test_a_signal_that_the_parent_ignores_stays_ignored(
    monkeypatch: pytest.MonkeyPatch, heard: list[int]
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setattr(app_module, "app", lambda **_: signal.raise_signal(signal.SIGTERM))
    assert app_module.run(["fail"]) == 0
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (MedloraError("the peer is gone"), 1, "Error: the peer is gone\n"),
        (OSError("plain"), 130, "Error: interrupted\n"),
    ],
)
def test_terminate_does_not_replace_an_error_of_ours_that_is_on_its_way(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    status: int,
    said: str,
) -> None:
    def fail(**_: object) -> None:
        try:
            raise error
        finally:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(app_module, "app", fail)
    assert app_module.run(["fail"]) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("handler", "after"),
    [
        (signal.default_int_handler, signal.SIG_DFL),
        (signal.SIG_IGN, signal.SIG_IGN),
    ],
)
def test_while_python_closes_ctrl_c_says_nothing(
    monkeypatch: pytest.MonkeyPatch, heard: list[int], handler: Any, after: Any
) -> None:
    """And is ignored where the parent process ignores it, as a script does for what it starts with `&`."""
    signal.signal(signal.SIGINT, handler)
    monkeypatch.setattr(sys, "argv", ["mlx-medlora", "--version"])
    with pytest.raises(SystemExit) as ended:
        app_module.main()
    assert (ended.value.code, signal.getsignal(signal.SIGINT)) == (0, after)


def test_ctrl_c_before_a_command_begins_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(app_module, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        app_module.main()
    assert ended.value.code == 130


def test_terminate_ends_a_command_as_ctrl_c_does(tmp_path: Path) -> None:
    """With nothing half-written left: what is under way is removed."""
    command = [sys.executable, "-m", "mlx_medlora.cli.app", "prepare", "--phantoms", "4000"]
    with subprocess.Popen([*command, "--output", str(tmp_path / "out")], stderr=subprocess.PIPE) as process:
        while not list(tmp_path.iterdir()):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert (process.returncode, list(tmp_path.iterdir())) == (130, []), said
