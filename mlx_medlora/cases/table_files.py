"""Raw rows out of CSV, JSON and JSON Lines, each with the line it begins on."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_medlora import privacy
from mlx_medlora.cases.rows import parse_json, read_jsonl, read_text
from mlx_medlora.errors import InputError

Row = tuple[int, Any]  # line (from 1), value: an object for a sound row


@dataclass(frozen=True)
class BadRow:
    """Stands for a row that could not be read, so that all bad rows can be named together."""

    reason: str


CSV_KINDS = (".csv", ".tsv")
JSONL_KINDS = (".jsonl", ".ndjson")
JSON_KINDS = (".json",)


def read_rows(path: Path) -> list[Row]:
    """All rows of a table, told by the file's ending.

    Raises InputError for another ending, a malformed file, or one without a row.
    """
    kind = path.suffix.lower()
    if kind in CSV_KINDS:
        rows = _read_csv(path)
    elif kind in JSONL_KINDS:
        rows = list(read_jsonl(path))
    elif kind in JSON_KINDS:
        rows = _read_json_array(path)
    else:
        known = ", ".join(CSV_KINDS + JSON_KINDS + JSONL_KINDS)
        raise InputError(f"the table's kind {kind!r} is not known; it may be {known}", path=path)
    if not rows:
        raise InputError("the table has no cases", path=path)
    return rows


def _read_csv(path: Path) -> list[Row]:
    """Rows as dictionaries by column name; names are lower-cased, cells are as written."""
    text = read_text(path)
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text), strict=True)
    rows: list[Row] = []
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
                rows.append((line, BadRow(reason)))
            else:
                rows.append((line, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise InputError(f"not valid CSV: {error}", path=path, line=start) from error
    return rows


def _delimiter(text: str) -> str:
    """Comma, tab, or the semicolon that spreadsheets of many countries write: the header's commonest."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",\t;", key=first.count)


def _header(cells: list[str], path: Path, line: int) -> list[str]:
    names = ["_".join(cell.lower().split()) for cell in cells]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        # a table without a header has a case in its place
        column = privacy.named(cells[names.index(twice[-1])]) if any(twice) else ""
        what = f"names the column {column} twice" if column else "has a column without a name"
        raise InputError(f"the header {what}", path=path, line=line)
    return names


def _read_json_array(path: Path) -> list[Row]:
    """The elements of a JSON array, each with the line it begins on."""
    text = read_text(path)
    values = parse_json(text, path)
    if not isinstance(values, list):
        message = f"expected an array of cases, got {type(values).__name__}"
        raise InputError(message, path=path, line=1, hint="One object a line? Then name the file *.jsonl.")
    decoder, rows, position = json.JSONDecoder(), [], text.index("[") + 1
    line, counted = 1, 0
    for value in values:
        while text[position] in " \t\n,":
            position += 1
        line += text.count("\n", counted, position)
        counted = position
        rows.append((line, value))
        position = decoder.raw_decode(text, position)[1]
    return rows
