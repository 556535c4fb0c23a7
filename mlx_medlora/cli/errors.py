"""One table from what went wrong to what a person reads, what to do next and the exit status."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from typer import Abort, TyperException

from mlx_medlora import privacy
from mlx_medlora.errors import MedloraError, is_out_of_memory

DEBUG = "MEDLORA_DEBUG"
INTERRUPTED = 130
_LINES, _WIDTH = 60, 2000


@dataclass(frozen=True)
class Report:
    """What is said: the message, a hint or None, the exit status."""

    message: str
    hint: str | None
    status: int


def _medlora(error: MedloraError) -> Report:
    return Report(str(error), error.hint, error.exit_code)


def _usage(error: TyperException) -> Report:
    context = getattr(error, "ctx", None)
    command = "mlx-medlora" if context is None else context.command_path
    message = error.format_message().replace("Value error, ", "")  # pydantic's prefix, which Typer passes on
    return Report(message, f"`{command} --help` shows every option.", error.exit_code)


def _os(error: OSError) -> Report:
    reason = error.strerror or str(error)
    place = "" if error.filename is None else f"{error.filename}: "
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return Report("too many open files", "Allow more in this shell first: ulimit -n 1024", 1)
    if is_out_of_memory(error):
        return _memory(error)
    if error.errno == errno.EFBIG:
        hint = "Choose an --output on another disk (FAT32 ends at 4 GiB), or raise `ulimit -f`."
        return Report(f"{place}{reason}", hint, 2)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Report(f"{place}{reason}", "Free some space, or choose an --output on another disk.", 2)
    if error.filename is not None and error.errno in _INPUT:
        return Report(f"{place}{reason}", "Check the path and its permissions.", 2)
    return _unexpected(error)


_INPUT = (
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EILSEQ),
)


def _memory(error: BaseException) -> Report:
    hint = "End other programs, use a smaller --batch-size, or convert the model with --bits 4."
    return Report("out of memory", hint, 1)


def _interrupt(error: BaseException) -> Report:
    return Report("interrupted", None, INTERRUPTED)


def _unexpected(error: BaseException) -> Report:
    if is_out_of_memory(error):
        return _memory(error)
    text = " ".join(str(error).split()) or "no message"
    hint = f"Run it again with {DEBUG}=1 to see where, and report it with that output."
    if privacy.may_hold_cases():
        text = f"its message is {privacy.HIDDEN}, it may repeat case text"
        hint += " --verbose-cases shows the message: read it before you pass it on."
    return Report(f"internal error: {type(error).__name__}: {text}", hint, 1)


# The first type that matches speaks.
TABLE: tuple[tuple[type[BaseException], Callable[..., Report]], ...] = (
    (MedloraError, _medlora),
    (TyperException, _usage),
    (KeyboardInterrupt, _interrupt),
    (Abort, _interrupt),
    (MemoryError, _memory),
    (OSError, _os),
    (Exception, _unexpected),
)


def report(error: BaseException) -> Report:
    """What the table says about `error`; SystemExit and the like are raised again."""
    for kind, describe in TABLE:
        if isinstance(error, kind):
            return describe(error)
    raise error


def trace(error: BaseException) -> str:
    """The traceback: places and lines of source, no variables; messages where they may be shown.

    What was caught on the way may repeat case text too, as pydantic's errors do: of a chain only our own
    messages are told then.
    """
    if not privacy.may_hold_cases():
        return "".join(traceback.format_exception(error)).rstrip()
    told: list[str] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        message = str(one) if isinstance(one, MedloraError) else f"({privacy.HIDDEN})"
        places = "".join(traceback.format_tb(one.__traceback__))
        told.append(f"Traceback (most recent call last):\n{places}{type(one).__qualname__}: {message}")
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return "\n\nand then:\n\n".join(reversed(told))


def say(error: BaseException) -> int:
    """Print the report on `error` to stderr, its traceback first where asked for; return the status."""
    found = report(error)
    if os.environ.get(DEBUG):
        print(trace(error), file=sys.stderr)
    print(f"Error: {printable(found.message)}", file=sys.stderr)
    if found.hint:
        print(f"Hint: {printable(found.hint)}", file=sys.stderr)
    return found.status


def printable(text: str) -> str:
    """`text` as a terminal may show it: what an input put there moves no cursor and fills no screen."""
    lines = text.split("\n")
    lines = [*lines[:_LINES], "..."] if len(lines) > _LINES else lines
    return "\n".join(_one_line(line) for line in lines)


def _one_line(text: str) -> str:
    cut = text if len(text) <= _WIDTH else f"{text[: _WIDTH - 300]}...{text[-300:]}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in cut)
