"""What messages may say of a case: its id, its files, its line and its fields' names, and no text of it.

Messages end in logs, in mails to colleagues, in reports of bugs. A command's --verbose-cases lifts this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

HIDDEN = "not shown"
_QUOTED = re.compile(r"""b?(["']).*\1""", re.DOTALL)
_FILE = re.compile(r"[^\n]{1,100}\.\w{1,5}")
_LONGEST = 80  # characters of a value that a message shows at most


class _Cases:
    """What this process may show, and whether it holds cases at all."""

    shown = False
    held = False


def show_cases(wanted: bool) -> None:
    """Let messages hold case text, or not; a command sets this by its --verbose-cases."""
    _Cases.shown = wanted


def cases_shown() -> bool:
    """Whether messages may hold case text."""
    return _Cases.shown


def cases_read() -> None:
    """Take note that case text is in memory from now on: any exception's message may repeat it."""
    _Cases.held = True


def may_hold_cases() -> bool:
    """Whether the message of an exception from anywhere may repeat case text that nobody asked to see."""
    return _Cases.held and not _Cases.shown


def forget() -> None:
    """Begin afresh, as a new process does."""
    _Cases.shown = _Cases.held = False


def shown(value: object) -> str:
    """A value out of a case, for a message: itself where it may be shown, else what kind of thing it is."""
    if _Cases.shown or value is None or isinstance(value, bool) or value in ("", [], {}):
        return f"{value!r:.{_LONGEST}}"
    return f"{_kind(value)}, {HIDDEN}"


def named(name: object) -> str:
    """A file's or a field's name out of a case's row, for a message.

    Where it does not look like a name it may be a cell of another column, and is treated as text.
    """
    text = str(name)
    plain = not re.search(r"\s", text) and len(text) <= 2 * _LONGEST
    return repr(text) if plain or _FILE.fullmatch(text) else f"({shown(text)})"


def reason(error: BaseException) -> str:
    """An exception's message without what it quotes, which may be bytes of an image or text of a case."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _Cases.shown else _QUOTED.sub("'...'", text)


def hint(message: str) -> str | None:
    """What to do about a message that holds something back; None where it does not."""
    return "--verbose-cases shows the values (patient data, so mind the logs)." if HIDDEN in message else None


def _kind(value: object) -> str:
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} fields"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}"
    return "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}"
