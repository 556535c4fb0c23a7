"""Everything one page is made of, gathered before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.adapters import caveat
from mlx_medlora.evaluation.results import Comparison, Paired, Prediction, Scorecard
from mlx_medlora.evaluation.runs import Run, cases_of
from mlx_medlora.files import read_json
from mlx_medlora.report.beside import Beside, look_beside
from mlx_medlora.report.words import last_part
from mlx_medlora.settings import validate

COMPARISON = "comparison.json"
TOY = "tiny-medgemma"
TOY_NOTICE = (
    "The embedded model is a toy trained on drawn images: this page shows the path, no medical model."
)


@dataclass(frozen=True)
class Options:
    """What of the cases the page may hold. `redact` leaves out all of it: text, ids, images, patients."""

    images: bool = True
    redact: bool = False


@dataclass(frozen=True)
class Evidence:
    """A run, its cases where they could be found (`absent` says why not), and what lies beside it.

    `splits` are those that the cases' dataset has.
    """

    scorecard: Scorecard
    predictions: list[Prediction]
    directory: Path
    cases: dict[str, Case] = field(default_factory=dict)
    images: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    absent: str | None = None
    beside: Beside = field(default_factory=Beside)
    comparison: Comparison | None = None

    @property
    def about(self) -> dict[str, Any]:
        """What was evaluated, as the scorecard has it."""
        return self.scorecard.about

    @property
    def name(self) -> str:
        """What was evaluated, in a few words: `first on models/medgemma-4b` without the directories."""
        model = last_part(self.about.get("model", "a model"))
        adapter = self.about.get("adapter")
        return model if not adapter else f"{last_part(adapter)} on {model}"

    @property
    def is_toy(self) -> bool:
        """Whether the embedded model, or an adapter of it, was evaluated."""
        names = (self.about.get("model"), self.beside.base)
        return any(name is not None and last_part(name) == TOY for name in names)

    @property
    def caveat(self) -> str | None:
        """What to say where training saw these very cases, by the adapter's record."""
        about = self.about
        told = (
            caveat(record, about.get("split_sha256"), about.get("split"), self.splits)
            for record in (self.beside.record, self.beside.fused)
        )
        return next((one for one in told if one is not None), None)

    def pairs(self) -> list[Paired]:
        """The comparisons of this run with others, the first run as the base; empty without any."""
        return [] if self.comparison is None else self.comparison.pairs


def gather(
    run: Run,
    data: Path | None = None,
    comparison: Comparison | None = None,
    adapter: Path | None = None,
) -> Evidence:
    """Find the cases, the records and the comparison that belong to `run`.

    `data` and `adapter` are where they lie now. Raises InputError where one is given and is not the one that
    was evaluated; without, a dataset that is gone only leaves its text and images out, an adapter its record.
    """
    cases: dict[str, Case] = {}
    images: dict[str, tuple[Path, ...]] = {}
    splits: tuple[str, ...] = ()
    absent = None
    try:
        dataset, cases = cases_of(run, data)
        splits = dataset.splits()
        images = {name: dataset.image_files(case) for name, case in cases.items()}
    except InputError as error:
        if data is not None:
            raise
        absent = error.message
    return Evidence(
        scorecard=run.scorecard,
        predictions=run.predictions,
        directory=run.directory,
        cases=cases,
        images=images,
        splits=splits,
        absent=absent,
        beside=look_beside(run, adapter),
        comparison=comparison or _kept_comparison(run),
    )


def without_cases(run: Run, adapter: Path | None = None) -> Evidence:
    """The evidence of a run without its cases, which are not read. Raises InputError as `gather`."""
    return Evidence(run.scorecard, run.predictions, run.directory, beside=look_beside(run, adapter))


def _kept_comparison(run: Run) -> Comparison | None:
    """`comparison.json` of the run's directory, where it speaks of these cases."""
    path = run.directory / COMPARISON
    if not path.is_file():
        return None
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected an object", path=path)
    found = validate(Comparison, raw, path=path)
    return found if found.split_sha256 == run.scorecard.about.get("split_sha256") else None
