"""An evaluation's directory, read back."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.results import Heatmaps, Prediction, Scorecard
from mlx_medlora.files import read_json
from mlx_medlora.settings import describe, validate

SCORECARD = "scorecard.json"
PREDICTIONS = "predictions.jsonl"
DEPENDENCE = "dependence.json"
HEATMAPS = "heatmaps.json"
SUITE = "suite.json"
HEALTH, FORGETTING = "health.json", "forgetting.json"  # where an adapter was evaluated
POINT = "operating_point.json"  # in the adapter's directory


@dataclass(frozen=True)
class Run:
    """What `eval` wrote into `directory`."""

    directory: Path
    scorecard: Scorecard
    predictions: list[Prediction]

    def place(self, key: str) -> Path | None:
        """Where lies what the run names under `key`, as `data`: as seen from here or from above the run.

        `eval` writes paths as they were given, relative to the directory that it was called in.
        """
        name = self.scorecard.about.get(key)
        if not isinstance(name, str) or not name:
            return None
        above = (os.path.join(parent, name) for parent in self.directory.absolute().parents)
        return Path(next(filter(os.path.exists, (name, *above)), name))


def read_run(directory: Path) -> Run:
    """Read a run. Raises InputError, with file and line, where it is none or not of this release."""
    if not directory.is_dir():
        raise InputError("no such run directory", path=directory, hint="`mlx-medlora eval` writes one.")
    for name in (SCORECARD, PREDICTIONS):
        if not (directory / name).is_file():
            message = f"not an evaluation's directory: it has no {name}"
            raise InputError(message, path=directory, hint="`mlx-medlora eval` writes one.")
    path = directory / SCORECARD
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected an object", path=path)
    card = validate(Scorecard, raw, path=path)
    rows = [_row(directory / PREDICTIONS, line, row) for line, row in read_jsonl(directory / PREDICTIONS)]
    if len(rows) != card.n:
        message = f"it has {len(rows)} answers, and the scorecard counts {card.n}"
        raise InputError(message, path=directory / PREDICTIONS, hint="Run the evaluation again.")
    right = sum(row.correct for row in rows)
    if right != card.correct:
        message = f"{right} of its answers are right, and the scorecard counts {card.correct}"
        raise InputError(message, path=directory / PREDICTIONS, hint="Run the evaluation again.")
    return Run(directory, card, rows)


def read_heatmaps(directory: Path) -> Heatmaps:
    """The heatmaps' cells of a run. Raises InputError where it is none, or of an earlier release."""
    read_run(directory)
    path = directory / HEATMAPS
    if not path.is_file():
        hint = "It was written by an earlier release: run the evaluation again."
        raise InputError(f"it has no {HEATMAPS}", path=directory, hint=hint)
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected an object", path=path)
    return validate(Heatmaps, raw, path=path)


def cases_of(run: Run, data: Path | None = None) -> tuple[Dataset, dict[str, Case]]:
    """The dataset that was answered, and its cases by id: their text, and through the dataset their images.

    `data` is where the dataset lies, if not where it did. Raises InputError where it is not there, or
    its split is no longer the one that was answered.
    """
    about = run.scorecard.about
    place, split = data or run.place("data"), str(about.get("split"))
    if place is None:
        raise InputError("the run does not say which dataset it answered", path=run.directory / SCORECARD)
    dataset = Dataset.open(place)
    cases = dataset.cases(split)
    if dataset.fingerprint(split) != about.get("split_sha256"):
        message = f"its split {split!r} is not the one that {run.directory} answered"
        raise InputError(message, path=place, hint="Evaluate again, or name the dataset as it was.")
    found = {case.id: case for case in cases}
    for number, row in enumerate(run.predictions, start=1):
        if row.id not in found:
            message = f"the answer {number} is to a case that the split {split!r} does not have"
            raise InputError(message, path=run.directory / PREDICTIONS, hint="Run the evaluation again.")
    return dataset, found


def _row(path: Path, line: int, row: object) -> Prediction:
    try:
        return Prediction.model_validate(row)
    except ValidationError as error:
        raise InputError(describe(error), path=path, line=line) from error
