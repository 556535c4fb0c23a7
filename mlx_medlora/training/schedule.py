"""The learning rate at each update: transformers' schedules."""

from __future__ import annotations

import math

from mlx_medlora.training.settings import Schedule


def learning_rate(step: int, total: int, warmup: int, peak: float, schedule: Schedule) -> float:
    """Rate of update `step` (from 0) of `total`, the first `warmup` of them rising from 0 to `peak`.

    Source: transformers' `get_{linear,cosine,constant}_schedule_with_warmup`.
    """
    if step < warmup:
        return peak * step / max(1, warmup)
    if schedule == "constant":
        return peak
    done = (step - warmup) / max(1, total - warmup)
    if schedule == "linear":
        return peak * max(0.0, 1.0 - done)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def warmup_steps(total: int, share: float) -> int:
    """How many of `total` updates warm up, rounded up as transformers does."""
    return math.ceil(total * share)
