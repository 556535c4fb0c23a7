"""What was demanded of a model, and whether the figures bear it out."""

from __future__ import annotations

from typing import Literal

from mlx_medlora.evaluation.results.measures import Interval
from mlx_medlora.settings import StrictModel

Verdict = Literal["pass", "fail", "undecided"]


class GateResult(StrictModel):
    """One gate on one group of cases.

    `group` is None for all cases, else `{"modality": "xray"}`. `rule` reads `at least 90 %` or `under 5 %`.
    It passes or fails where the whole interval does, but never passes for answers that could not be read;
    `needed` is how many cases would decide a figure such as this one with 80 % power, with as many a patient,
    None where no number would or none is needed.
    """

    measure: str
    group: dict[str, str] | None
    rule: str
    at_least: float | None
    under: float | None
    value: float | None
    interval: Interval | None
    n: int
    verdict: Verdict
    reason: str
    needed: int | None


class GateReport(StrictModel):
    """All gates: `fail` where one fails, else `undecided` where one is, else `pass`."""

    source: str
    verdict: Verdict
    gates: list[GateResult]
