"""Where a dataset's cases come from, and whether their use is bound by an agreement."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from mlx_medlora.files import read_json
from mlx_medlora.settings import StrictModel, validate

STATISTICS = "dataset_stats.json"
MARK = "data_source"  # its key in dataset_stats.json

# Without control characters and line breaks: it is printed, and written into model cards.
Line = Annotated[
    str,
    StringConstraints(
        strict=True, strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\p{C}\p{Zl}\p{Zp}]+$"
    ),
]


class DataSource(StrictModel):
    """The mark that an importer, or `prepare --credentialed`, puts on a dataset.

    `credentialed`: who uses the data has signed an agreement, which may bind what is derived from it too;
    `terms` says where that agreement stands.
    """

    name: Line
    credentialed: bool = False
    terms: Line | None = None

    def __str__(self) -> str:
        terms = "" if self.terms is None else f", terms: {self.terms}"
        return f"{self.name}{terms}"


def read_source(directory: Path) -> DataSource | None:
    """The mark of a dataset directory; None where it has none.

    Raises InputError where its statistics cannot be read: a mark is never overlooked in silence.
    """
    path = directory / STATISTICS
    return source_in(read_json(path), MARK, path) if path.is_file() else None


def source_in(values: Any, key: str, path: Path) -> DataSource | None:
    """The mark under `key` of a JSON object that was read from `path`. Raises InputError for a wrong one."""
    found = values.get(key) if isinstance(values, dict) else None
    if found is None:
        return None
    given = found if isinstance(found, dict) else {"name": found}
    return validate(DataSource, given, path=path)
