"""The learning rate at each update: transformers' schedules."""

from __future__ import annotations

import math

from pydantic import Field

from mlx_medlora.settings import StrictModel
from mlx_medlora.training.settings import Schedule

_MOST = 2**53  # whole numbers up to here are floats too


class Course(StrictModel):
    """Where the updates of a run stand on its schedule of `total` updates, `warmup` of them rising.

    Update `start` stands at `at`, update `end` at the schedule's end, those between evenly between: one by
    one in a run whose updates are as many as were planned.
    """

    total: int = Field(ge=0, le=_MOST)
    warmup: int = Field(ge=0, le=_MOST)
    start: int = Field(0, ge=0, le=_MOST)
    at: float = Field(0.0, ge=0, le=_MOST)
    end: int = Field(ge=0, le=_MOST)

    @classmethod
    def whole(cls, total: int, warmup: int) -> Course:
        """That of a run which takes `total` updates from first to last."""
        return cls(total=total, warmup=warmup, end=total)

    def to(self, step: int, end: int) -> Course:
        """This one up to update `step`, and from there so that `end` stands at the schedule's end."""
        return Course(total=self.total, warmup=self.warmup, start=step, at=self.place(step), end=end)

    def place(self, step: int) -> float:
        """Where on the schedule update `step` (from 0) stands: from 0 to `total`."""
        stride = (self.total - self.at) / max(1, self.end - self.start)
        return min(float(self.total), self.at + (step - self.start) * stride)

    def rate(self, step: int, peak: float, schedule: Schedule) -> float:
        """The learning rate of update `step` (from 0)."""
        return learning_rate(self.place(step), self.total, self.warmup, peak, schedule)


def learning_rate(step: float, total: int, warmup: int, peak: float, schedule: Schedule) -> float:
    """Rate of update `step` (from 0) of `total`, the first `warmup` of them rising from 0 to `peak`.

    Beyond the end it stays what it is there.

    Source: transformers' `get_{linear,cosine,constant}_schedule_with_warmup`.
    """
    if step < warmup:
        return peak * step / max(1, warmup)
    if schedule == "constant":
        return peak
    done = min(1.0, (step - warmup) / max(1, total - warmup))
    if schedule == "linear":
        return peak * (1.0 - done)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def warmup_steps(total: int, share: float) -> int:
    """How many of `total` updates warm up, rounded up as transformers does."""
    return math.ceil(total * share)
