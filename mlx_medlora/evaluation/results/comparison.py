"""`comparison.json`: several runs on the same cases."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mlx_medlora.evaluation.results.measures import Interval, Measure
from mlx_medlora.settings import StrictModel


class RunSummary(StrictModel):
    """One run of the table: its name there, where it lies, what it was (`about`) and its figures.

    `warnings` say what speaks against those figures: cases that its adapter, epoch or threshold has seen.
    """

    name: str
    directory: str
    about: dict[str, Any]
    accuracy: float | None
    accuracy_interval: Interval | None
    measures: dict[str, Measure]
    warnings: list[str] = Field(default_factory=list)


class Paired(StrictModel):
    """`second` against `first` on the same cases.

    `won` are the ids that only `second` has right, `lost` those that only `first` has. `p_value` is
    McNemar's exact one, two-sided, which takes cases as independent; `p_patients` that of swapping the two
    runs patient by patient, where patients have several cases, else None. `p_adjusted` is the latter where
    there is one, with allowance for the number of comparisons (Holm). `difference` is the accuracy of
    second less that of first.
    """

    first: str
    second: str
    n: int
    both_right: int
    both_wrong: int
    won: list[str]
    lost: list[str]
    p_value: float
    p_patients: float | None
    p_adjusted: float
    difference: Measure
    sentence: str


class Comparison(StrictModel):
    """The runs in the order given, and each later one against the first."""

    n: int
    split: str
    split_sha256: str
    runs: list[RunSummary]
    pairs: list[Paired]
    notice: str
