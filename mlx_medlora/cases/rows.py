"""Reading JSON Lines with the line number of every fault."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_medlora.jsontext import parse_json
from mlx_medlora.textfiles import read_lines

ROW_VALUES = 50_000


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) for each line that is not blank.

    Raises InputError, with the line, for what `read_lines` and `parse_json` refuse.
    """
    for line, text in read_lines(path):
        if text.strip():
            yield line, parse_json(text, path, line, values=ROW_VALUES)
