"""`heatmaps.json`, which every evaluation writes, and `suite.json` of `eval --suite`."""

from __future__ import annotations

from pydantic import Field

from mlx_medlora.evaluation.results.gates import GateResult, Verdict
from mlx_medlora.evaluation.results.measures import Measure
from mlx_medlora.evaluation.results.scorecard import Scorecard
from mlx_medlora.settings import StrictModel

ALL = "all"  # what the row of all modalities together is called


class Heatmaps(StrictModel):
    """Cells held against the gates. `group` has `modality`, in `by_error_type` also `error_type`.

    Without `modality` (`group` None in `by_metric`) a cell is of all together. A modality's cell is held
    against all gates on that measure of that modality where there are any, else against those on all
    cases; of several it has the worst verdict, and the rule that gave it. In `by_error_type` the figure is
    the share of errors found; of `none`, of valid treatments found valid.
    """

    by_metric: list[GateResult]
    by_error_type: list[GateResult]


class Baseline(StrictModel):
    """Something simple that answered the same cases; `difference` is the model's accuracy less its.

    `read` is how many cases it could read, of rules that need something in a case; None of others.
    """

    name: str
    rule: str
    read: int | None = None
    scorecard: Scorecard
    difference: Measure


class Suite(StrictModel):
    """The benchmark suite: `modalities` and each one's verdict, green (`pass`) where all its cells pass.

    `absent` are modalities of the dataset card without a case here.
    """

    name: str = "clinical validation"
    modalities: dict[str, Verdict]
    absent: list[str] = Field(default_factory=list)
    heatmaps: Heatmaps
    baselines: list[Baseline]
    sentences: list[str]
