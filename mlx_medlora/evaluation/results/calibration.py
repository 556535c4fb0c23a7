"""How far probabilities can be believed, and the threshold that is kept with an adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mlx_medlora.evaluation.results.measures import Interval, Measure
from mlx_medlora.settings import StrictModel

Rule = Literal["max-false-flag", "min-sensitivity"]


class Bin(StrictModel):
    """One bin of the reliability diagram: `low` <= probability of ERROR < `high` (the last includes 1).

    `share` of its `n` cases are errors, where the model said `mean` on average; None without cases.
    """

    low: float
    high: float
    n: int
    errors: int
    mean: float | None
    share: float | None
    interval: Interval | None


class Calibration(StrictModel):
    """The probability of ERROR against what was true.

    `ece` is the expected calibration error over `bins` of equal width, which rises with few cases a bin;
    `brier` the mean squared difference; `log_loss` in nats; `temperature` what the probabilities were
    divided by (in log-odds) before. Intervals are None with too few patients or cases to resample.
    """

    temperature: float
    n: int
    ece: float
    ece_interval: Interval | None = None
    brier: Measure
    log_loss: float
    log_loss_interval: Interval | None = None
    bins: list[Bin]


class OperatingPoint(StrictModel):
    """`operating_point.json` in an adapter directory: a case is flagged from `threshold` on.

    `threshold` is a probability after `temperature`; above 1, nothing is flagged. `rule` and `limit` are
    what was asked for. The measures were taken on the cases it was chosen on: new cases do worse.
    """

    format_version: Literal[1] = 1
    temperature: float = Field(gt=0)
    threshold: float = Field(ge=0)
    rule: Rule
    limit: float = Field(ge=0, le=1)
    weights_sha256: str
    model: str
    model_fingerprint: str
    split: str
    split_sha256: str
    n: int
    errors: int
    valid: int
    sensitivity: Measure
    false_flag_rate: Measure
    ece_before: float
    ece_after: float
    ece_before_interval: Interval | None = None
    ece_after_interval: Interval | None = None
    notes: tuple[str, ...] = ()
    mlx_medlora: str


class AppliedPoint(StrictModel):
    """The operating point as an evaluation used it; `same_cases` where it was chosen on these very cases."""

    temperature: float
    threshold: float
    rule: Rule
    limit: float
    split: str
    split_sha256: str
    n: int
    same_cases: bool
    warnings: tuple[str, ...] = ()
