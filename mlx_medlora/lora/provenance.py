"""What an adapter holds of the data that it was trained on, and where that data came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from mlx_medlora.cases.source import DataSource, source_in
from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.settings import StrictModel

RUN = "run.json"  # of training
TRAINING_DATA = "training_data.json"  # the same of an adapter that was exported or imported
SOURCE = "source"  # the mark's key in both

CONTAINS = (
    "No case's text, no image, no case's or patient's id.",
    "Of each split the number of cases and of supervised tokens, and one SHA-256 over rows and images: who "
    "has the same data can tell that it was this.",
    "In run.json the name of the dataset's directory.",
    "Losses and accuracies over whole batches and splits.",
    "Weights that were fitted to the cases. They can have memorised parts of them, rare words above all, and "
    "nothing here measures how much: treat them as you treat the data.",
)


class Provenance(StrictModel):
    """What is known of an adapter's training data. `splits`: rows, supervised tokens and SHA-256 by name."""

    contains: tuple[str, ...] = CONTAINS
    splits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    source: DataSource | None = None

    @property
    def warning(self) -> str | None:
        """What to say before the adapter leaves the machine; None where its data is not credentialed."""
        if self.source is None or not self.source.credentialed:
            return None
        return (
            f"this was trained on credentialed data ({self.source}): the agreement may bind what is derived "
            "from the data, and these weights are. Read it before you pass them on."
        )


def read_provenance(adapter: Path) -> Provenance:
    """What the directory of an adapter says of its data; nothing where it was made by another tool.

    Raises InputError where it cannot be read: a mark is never overlooked in silence.
    """
    for name, key in ((RUN, "data"), (TRAINING_DATA, "splits")):
        path = adapter / name
        if path.exists():
            found = read_json(path)
            if not isinstance(found, dict):
                raise InputError("expected a JSON object", path=path, line=1)
            splits = _splits(found.get(key))
            return Provenance(splits=splits, source=source_in(found, SOURCE, path))
    return Provenance()


def _splits(data: Any) -> dict[str, dict[str, Any]]:
    """Those that have all three figures, and these alone."""
    given = data if isinstance(data, dict) else {}
    needed = {"rows": int, "supervised_tokens": int, "sha256": str}
    return {
        str(name): {key: one[key] for key in needed}
        for name, one in given.items()
        if isinstance(one, dict) and all(isinstance(one.get(key), kind) for key, kind in needed.items())
    }
