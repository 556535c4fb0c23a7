"""The scorecard: accuracy and the dataset card's three rates, each with its interval and its meaning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlx_medlora.cases.card import Label
from mlx_medlora.evaluation.intervals import wilson
from mlx_medlora.settings import StrictModel

NOTICE = (
    "Research tool, not a medical device: nothing here shows that a model is safe to use on patients. "
    "Small samples say little: read the intervals (Wilson, 95 %), which treat the cases as independent."
)

MEANINGS = {
    "tpr": "True Positive Rate: the share of valid treatments that were found valid",
    "tnr": "True Negative Rate: the share of wrong treatments whose error was found",
    "fpr": "False Positive Rate: the share of valid treatments that were flagged as errors",
}


class Rate(StrictModel):
    """A share: `count` of `n` cases; `value` and `interval` are None where n is 0."""

    value: float | None
    count: int
    n: int
    interval: tuple[float, float] | None
    meaning: str


class Scores(StrictModel):
    """The figures of one group of cases. An unreadable answer is wrong, and counted in `invalid` too."""

    accuracy: float | None
    n: int
    correct: int
    accuracy_interval: tuple[float, float] | None
    tpr: Rate
    tnr: Rate
    fpr: Rate
    invalid: int
    invalid_rate: float | None


class Scorecard(Scores):
    """All cases together, and each modality on its own."""

    by_modality: dict[str, Scores]
    notice: str = NOTICE


@dataclass(frozen=True)
class Outcome:
    """One answered case: `predicted` is None where the answer could not be read."""

    label: Label
    predicted: Label | None
    modality: str


def score(outcomes: Sequence[Outcome]) -> Scorecard:
    """Count `outcomes` into a scorecard; modalities in alphabetical order."""
    modalities = sorted({outcome.modality for outcome in outcomes})
    groups = {name: _scores([o for o in outcomes if o.modality == name]) for name in modalities}
    return Scorecard(**_scores(outcomes).model_dump(), by_modality=groups)


def _scores(outcomes: Sequence[Outcome]) -> Scores:
    valid = [o.predicted for o in outcomes if o.label == "CORRECT"]
    wrong = [o.predicted for o in outcomes if o.label == "ERROR"]
    correct = _count(valid, "CORRECT") + _count(wrong, "ERROR")
    invalid = _count(valid, None) + _count(wrong, None)
    n = len(outcomes)
    return Scores(
        accuracy=_share(correct, n),
        n=n,
        correct=correct,
        accuracy_interval=wilson(correct, n),
        tpr=_rate("tpr", _count(valid, "CORRECT"), len(valid)),
        tnr=_rate("tnr", _count(wrong, "ERROR"), len(wrong)),
        fpr=_rate("fpr", _count(valid, "ERROR"), len(valid)),
        invalid=invalid,
        invalid_rate=_share(invalid, n),
    )


def _count(predictions: Iterable[Label | None], wanted: Label | None) -> int:
    return sum(predicted == wanted for predicted in predictions)


def _share(count: int, n: int) -> float | None:
    return count / n if n else None


def _rate(name: str, count: int, n: int) -> Rate:
    return Rate(value=_share(count, n), count=count, n=n, interval=wilson(count, n), meaning=MEANINGS[name])
