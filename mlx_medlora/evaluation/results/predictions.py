"""One answered case: a row of `predictions.jsonl`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mlx_medlora.cases.card import Label
from mlx_medlora.settings import StrictModel

Method = Literal["score", "generate"]


class Prediction(StrictModel):
    """One case's answer. The case's own text and images stay in the dataset (`runs.cases_of`).

    `p_error` (method score) is the model's own probability of ERROR against CORRECT, `p_calibrated` the
    same after the operating point's temperature, None where none was applied. `predicted` is ERROR from
    `threshold` on. `text` (method generate) is the whole answer; `predicted` is None where that could not
    be read, and `threshold` None. `metadata` holds the case's fields; of those, only what was grouped by
    (`--by`) is written.
    """

    id: str
    modality: str
    label: Label
    predicted: Label | None
    correct: bool
    method: Method
    p_error: float | None
    p_calibrated: float | None = None
    threshold: float | None = None
    text: str | None
    patient_id: str | None
    error_type: str
    severity: str
    image_paths: tuple[str, ...]
    metadata: dict[str, Any] = Field(default_factory=dict)

    @property
    def probability(self) -> float | None:
        """The probability of ERROR that the verdict rests on: calibrated where it was calibrated."""
        return self.p_error if self.p_calibrated is None else self.p_calibrated
