"""Reading JSON Lines with the line number of every fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from mlx_medlora.errors import InputError


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) for each line that is not blank.

    Raises InputError, with the line, for malformed JSON, NaN or text that is not UTF-8.
    """
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if text.strip():
            yield line, parse_json(text, path, line)


def read_text(path: Path) -> str:
    """The file's text, without a byte order mark. Raises InputError where it is absent or not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    except IsADirectoryError as error:
        raise InputError("is a directory; a file was expected", path=path) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        hint = "Save the file as UTF-8 (in Excel: 'CSV UTF-8')."
        raise InputError("not UTF-8 text", path=path, line=line, hint=hint) from error


def parse_json(text: str, path: Path, line: int = 1) -> Any:
    """Parse JSON that starts at `line` of `path`. Raises InputError with the line of the fault."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", path=path, line=line + error.lineno - 1) from error
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", path=path, line=line) from error
    except RecursionError as error:
        raise InputError("JSON is nested too deeply", path=path, line=line) from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
