"""Raw rows out of CSV, JSON and JSON Lines, each with the line it begins on."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_medlora import privacy
from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.errors import InputError
from mlx_medlora.jsontext import parse_element, parse_json, refuse_many_values
from mlx_medlora.textfiles import TABLE_BYTES, read_lines, read_text

Row = tuple[int, Any]  # line (from 1), value: an object for a sound row


@dataclass(frozen=True)
class BadRow:
    """Stands for a row that could not be read, so that all bad rows can be named together."""

    reason: str


CSV_KINDS = (".csv", ".tsv")
JSONL_KINDS = (".jsonl", ".ndjson")
JSON_KINDS = (".json",)
MAX_ROWS = 1_000_000  # rows are held in memory until all are checked
MOST_FAULTS = 1000  # reading stops there: it is another file than was meant
MAX_COLUMNS = 1000
_VALUES = 4_000_000  # of a JSON array
_NOT_OPENED = (".pkl", ".pickle", ".npy", ".npz", ".pt", ".pth", ".bin", ".parquet", ".xls", ".xlsx")
_SPACE = re.compile(r"[ \t\n\r]*")


def read_rows(path: Path) -> list[Row]:
    """All rows of a table, told by the file's ending.

    Cells are text, whatever they begin with: a spreadsheet's formula is kept as written and never computed.
    Raises InputError for another ending, a malformed file, one without a row or with too many.
    """
    kind = path.suffix.lower()
    if kind in CSV_KINDS:
        rows = _bounded(_read_csv(path), path)
    elif kind in JSONL_KINDS:
        rows = _bounded(read_jsonl(path), path)
    elif kind in JSON_KINDS:
        rows = _bounded(_read_json_array(path), path)
    elif not path.is_file():
        raise InputError("is not a file" if path.exists() else "no such file", path=path)
    else:
        known = ", ".join(CSV_KINDS + JSON_KINDS + JSONL_KINDS)
        hint = "Save it as CSV: such a file is not opened." if kind in _NOT_OPENED else None
        raise InputError(f"the table's kind {kind!r} is not known; it may be {known}", path=path, hint=hint)
    if not rows:
        raise InputError("the table has no cases", path=path)
    return rows


def _bounded(rows: Iterable[Row], path: Path) -> list[Row]:
    """The rows as a list, up to the last one that is worth a look. Raises InputError for too many."""
    held: list[Row] = []
    faults = 0
    for line, value in rows:
        if len(held) == MAX_ROWS:
            raise InputError(f"the table has more than {MAX_ROWS:,} rows", path=path, line=line)
        held.append((line, value))
        faults += not (isinstance(value, dict) and value)
        if faults == MOST_FAULTS:
            break
    return held


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows as dictionaries by column name; names are lower-cased, cells are as written."""
    lines = (f"{text}\n" for _, text in read_lines(path))
    reader = csv.reader(lines, delimiter=_delimiter(path), strict=True)
    header: list[str] | None = None
    start = 1
    try:
        for cells in reader:
            line, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if header is None:
                header = _header(cells, path, line)
            elif len(cells) != len(header):
                reason = f"the row has {len(cells)} cells, the header {len(header)}"
                yield line, BadRow(reason)
            else:
                yield line, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", path=path, line=start) from error


def _delimiter(path: Path) -> str:
    """Comma, tab, or the semicolon that spreadsheets of many countries write: the header's commonest."""
    first = next((text for _, text in read_lines(path) if text.strip()), "")
    return max(",\t;", key=first.count)


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    names = ["_".join(cell.lower().split()) for cell in cells]
    if len(names) > MAX_COLUMNS:
        raise InputError(f"the header has {len(names):,} columns", path=path, line=line)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        # a table without a header has a case in its place
        column = privacy.named(cells[names.index(twice[-1])]) if any(twice) else ""
        what = f"names the column {column} twice" if column else "has a column without a name"
        raise InputError(f"the header {what}", path=path, line=line)
    return names


def _read_json_array(path: Path) -> Iterator[Row]:
    """The elements of a JSON array, each with the line it begins on."""
    text = read_text(path, TABLE_BYTES)
    refuse_many_values(text, path, None, _VALUES)
    position = _after_space(text, 0)
    if text[position : position + 1] != "[":
        kind = type(parse_json(text, path, values=_VALUES)).__name__
        message = f"expected an array of cases, got {kind}"
        raise InputError(message, path=path, line=1, hint="One object a line? Then name the file *.jsonl.")
    line, counted = 1, 0
    position = _after_space(text, position + 1)
    ended = text[position : position + 1] == "]"
    while not ended:
        line, counted = line + text.count("\n", counted, position), position
        value, position = parse_element(text, position, path, line)
        yield line, value
        position = _after_space(text, position)
        following = text[position : position + 1]
        if following not in (",", "]") or not following:
            place = line + text.count("\n", counted, position)
            raise InputError("not valid JSON: expected ',' or ']'", path=path, line=place)
        ended = following == "]"
        position = position if ended else _after_space(text, position + 1)
    if text[position + 1 :].strip():
        place = line + text.count("\n", counted, position)
        raise InputError("not valid JSON: something stands after the array", path=path, line=place)


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()
