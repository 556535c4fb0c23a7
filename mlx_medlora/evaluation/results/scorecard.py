"""`scorecard.json`: everything that is known of one model's answers to one split."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mlx_medlora.evaluation.results.calibration import AppliedPoint, Calibration
from mlx_medlora.evaluation.results.gates import GateReport
from mlx_medlora.evaluation.results.measures import Interval, Measure, Scores
from mlx_medlora.settings import StrictModel

NOTICE = (
    "Research tool, not a medical device: nothing here shows that a model is safe to use on patients. "
    "Small samples say little: read the intervals (95 %)."
)


class MissRow(StrictModel):
    """The errors of one severity: `missed` were called CORRECT, `unreadable` got no verdict.

    `rate` is the share not found, both together; `ids` names those cases.
    """

    severity: str
    weight: float
    errors: int
    missed: int
    unreadable: int
    rate: Measure
    ids: list[str]


class Misses(StrictModel):
    """Errors that were not found, the gravest first. `weighted` counts each by its severity's weight."""

    rows: list[MissRow]
    weighted: Measure


class SampleSize(StrictModel):
    """How many cases a claim takes: see `sentence`.

    `for_target`: cases by which a model of this accuracy would show `target` with the chance `power`, None
    where none would; `least`: the fewest, one a patient and all answered rightly; `for_margin`: cases by
    which the interval reaches no further than `margin` to either side, whichever accuracy in it is the true
    one. `design_effect` of these cases are worth an independent one; numbers are of cases like these.
    """

    n: int
    target: float
    for_target: int | None
    least: int
    margin: float
    for_margin: int
    sentence: str
    design_effect: float = 1.0
    power: float = 0.8


class Scorecard(Scores):
    """All cases together, and by group: `by["modality"]["xray"]`; `by_modality` is its first entry again.

    `calibration` is of the probabilities the verdicts rest on and `calibration_before` of the model's own,
    where an operating point was applied; None for written answers. `about` says what was evaluated.
    """

    by_modality: dict[str, Scores]
    by: dict[str, dict[str, Scores]] = Field(default_factory=dict)
    misses: Misses
    calibration: Calibration | None = None
    calibration_before: Calibration | None = None
    operating_point: AppliedPoint | None = None
    gates: GateReport | None = None
    sample_size: SampleSize | None = None
    level: float = 0.95
    notice: str = NOTICE
    about: dict[str, Any] = Field(default_factory=dict)


__all__ = ["NOTICE", "Interval", "MissRow", "Misses", "SampleSize", "Scorecard"]
