"""JSON from strangers: what the standard allows and no more, and never deeper or larger than makes sense."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mlx_medlora import privacy
from mlx_medlora.errors import InputError

MAX_DEPTH = 32
MAX_VALUES = 100_000  # of one document or row


def parse_json(text: str, path: Path, line: int | None = None, *, values: int = MAX_VALUES) -> Any:
    """Parse JSON that stands in `path`, at `line` where it is one row of it.

    Refused, where Python's own parser would not: a key that stands twice in one object, NaN and infinity,
    numbers past the range of a double, half of a surrogate pair, `\\u0000`, nesting beyond 32 and more than
    `values` values. Raises InputError with the line where it is known.
    """
    refuse_many_values(text, path, line, values)
    with _faults(path, line):
        found = _DECODER.decode(text)
        if text.count("[") + text.count("{") > MAX_DEPTH or "\\u" in text:
            _refuse_odd(found)
    return found


def parse_element(text: str, start: int, path: Path, line: int) -> tuple[Any, int]:
    """The JSON value that begins at `start` of a whole file's `text`, which is `line`, and where it ends.

    It is checked as `parse_json` checks a row.
    """
    with _faults(path, line, whole=True):
        found, end = _DECODER.raw_decode(text, start)
        _refuse_odd(found)
    return found, end


def refuse_many_values(text: str, path: Path, line: int | None, values: int) -> None:
    """Raise InputError where JSON holds more than `values` values, before they take memory."""
    if text.count(",") + text.count("[") + text.count("{") > values:
        raise InputError(
            f"JSON is nested too deeply, or holds more than {values:,} values", path=path, line=line
        )


@contextmanager
def _faults(path: Path, line: int | None, *, whole: bool = False) -> Iterator[None]:
    """Say what a parser refused, and where; with `whole` its own lines are those of the file."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = error.lineno if line is None or whole else line + error.lineno - 1
        raise InputError(f"not valid JSON: {error.msg}", path=path, line=place) from error
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", path=path, line=line) from error
    except RecursionError as error:
        raise InputError("JSON is nested too deeply", path=path, line=line) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


def _integer(text: str) -> int:
    if len(text) > 100:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the key {privacy.named(twice)} stands twice in one object")
    return made


def _refuse_odd(value: Any) -> None:
    """Raise RecursionError beyond the depth, ValueError for text that is no text."""
    level = [value]
    for depth in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for one in level:
            if isinstance(one, str):
                _refuse_odd_text(one)
            elif isinstance(one, (dict, list)):
                if depth == MAX_DEPTH:
                    raise RecursionError
                below += [*one, *one.values()] if isinstance(one, dict) else one
        level = below


def _refuse_odd_text(text: str) -> None:
    if "\0" in text:
        raise ValueError("a text holds \\u0000")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("a text holds half of a surrogate pair")


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer, object_pairs_hook=_object
)
