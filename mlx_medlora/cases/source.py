"""The mark of a dataset directory: where its cases come from, and whether an agreement binds their use."""

from __future__ import annotations

from pathlib import Path

from mlx_medlora.files import read_json
from mlx_medlora.marks import DataSource, source_in

__all__ = ["MARK", "STATISTICS", "DataSource", "read_source"]

STATISTICS = "dataset_stats.json"
MARK = "data_source"  # its key in dataset_stats.json


def read_source(directory: Path) -> DataSource | None:
    """The mark of a dataset directory; None where it has none.

    Raises InputError where its statistics cannot be read: a mark is never overlooked in silence.
    """
    path = directory / STATISTICS
    return source_in(read_json(path), MARK, path) if path.is_file() else None
