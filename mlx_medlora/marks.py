"""The mark of where data comes from: on datasets, on adapters, and on the weights that were trained on it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from mlx_medlora.errors import InputError
from mlx_medlora.settings import StrictModel, validate

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


def source_in(values: Any, key: str, path: Path) -> DataSource | None:
    """The mark under `key` of a JSON object that was read from `path`. Raises InputError for a wrong one."""
    found = values.get(key) if isinstance(values, dict) else None
    return None if found is None else _mark(found, path)


def sources_in(values: Any, key: str, path: Path) -> tuple[DataSource, ...]:
    """The marks listed under `key` of a JSON object that was read from `path`. Raises InputError likewise."""
    found = values.get(key) if isinstance(values, dict) else None
    if found is None:
        return ()
    if not isinstance(found, list):
        raise InputError(f"`{key}` is no list of sources", path=path)
    return tuple(_mark(one, path) for one in found)


def _mark(found: Any, path: Path) -> DataSource:
    given = found if isinstance(found, dict) else {"name": found}
    return validate(DataSource, given, path=path)


def unique(sources: Iterable[DataSource]) -> tuple[DataSource, ...]:
    """Each mark once, in order."""
    return tuple(dict.fromkeys(sources))
