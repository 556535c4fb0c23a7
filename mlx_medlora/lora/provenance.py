"""What an adapter holds of the data that it was trained on, and where that data came from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from mlx_medlora.errors import InputError
from mlx_medlora.files import keep_private, read_json, write_json
from mlx_medlora.marks import DataSource, source_in, sources_in, unique
from mlx_medlora.settings import StrictModel

RUN = "run.json"  # of training
TRAINING_DATA = "training_data.json"  # the same of an adapter in a checkpoint, exported or imported
SOURCE, OTHERS = "source", "others"  # the marks' keys in both

CONTAINS = (
    "No case's text, no image, no case's or patient's id.",
    "Of each split the number of cases and of supervised tokens, and one SHA-256 over rows and images: who "
    "has the same data can tell that it was this.",
    "In run.json, where it is there, the name of the dataset's directory.",
    "Losses and accuracies over whole batches and splits.",
    "Weights that were fitted to the cases. They can have memorised parts of them, rare words above all, and "
    "nothing here measures how much: treat them as you treat the data.",
)


class Provenance(StrictModel):
    """What is known of an adapter's training data. `splits`: rows, supervised tokens and SHA-256 by name.

    `source` marks the dataset; `others` are the marks of what else is in the weights: the base's, which was
    trained before, and replayed rows'.
    """

    contains: tuple[str, ...] = CONTAINS
    splits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    source: DataSource | None = None
    others: tuple[DataSource, ...] = ()

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """All marks, each once."""
        return unique([*([] if self.source is None else [self.source]), *self.others])

    def beside(self, others: Iterable[DataSource]) -> Provenance:
        """The same with more marks of what else is in the weights."""
        return self.model_copy(update={"others": unique([*self.others, *others])})

    @property
    def warning(self) -> str | None:
        """What to say before the adapter leaves the machine; None where its data is not credentialed."""
        bound = [str(source) for source in self.sources if source.credentialed]
        if not bound:
            return None
        return (
            f"this was trained on credentialed data ({'; '.join(bound)}): the agreement may bind what is "
            "derived from the data, and these weights are. Read it before you pass them on."
        )


def described(data: Any, source: DataSource | None, others: Iterable[DataSource] = ()) -> Provenance:
    """Provenance from what a run says of its data, of which only the splits' figures are taken."""
    return Provenance(splits=_splits(data), source=source, others=unique(others))


def read_provenance(adapter: Path) -> Provenance:
    """What the directory of an adapter says of its data; nothing where it was made by another tool.

    Raises InputError where it cannot be read: a mark is never overlooked in silence.
    """
    about = Provenance()
    for name, key in ((RUN, "data"), (TRAINING_DATA, "splits")):
        path = adapter / name
        if path.exists():
            found = read_json(path)
            if not isinstance(found, dict):
                raise InputError("expected a JSON object", path=path, line=1)
            here = described(found.get(key), source_in(found, SOURCE, path), sources_in(found, OTHERS, path))
            about = here if about == Provenance() else about.beside(here.sources)
    return about


def write_provenance(adapter: Path, about: Provenance) -> None:
    """Write `training_data.json` into an adapter's directory; nothing where nothing is known."""
    if about != Provenance():
        write_json(adapter / TRAINING_DATA, about.model_dump(mode="json"))
        keep_private(adapter / TRAINING_DATA)


def _splits(data: Any) -> dict[str, dict[str, Any]]:
    """Those that have all three figures, and these alone."""
    given = data if isinstance(data, dict) else {}
    needed = {"rows": int, "supervised_tokens": int, "sha256": str}
    return {
        str(name): {key: one[key] for key in needed}
        for name, one in given.items()
        if isinstance(one, dict) and all(isinstance(one.get(key), kind) for key, kind in needed.items())
    }
