"""One update: gradients of a window of batches, clipped, given to AdamW."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx import nn

from mlx_medlora.errors import MedloraError
from mlx_medlora.gemma.model import Base
from mlx_medlora.training import optimizer
from mlx_medlora.training.batches import Batch
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.schedule import learning_rate, warmup_steps
from mlx_medlora.training.settings import TrainSettings


@dataclass(frozen=True)
class Update:
    """What one update came to: mean `loss` over `tokens` supervised tokens, gradient `norm` unclipped."""

    loss: float
    norm: float
    rate: float
    tokens: int
    rows: int


class Stepper:
    """Takes the updates of a run of `total`; holds the optimiser, which a checkpoint must keep."""

    def __init__(self, model: Base, settings: TrainSettings, total: int, warmup: int | None = None) -> None:
        """`warmup` updates raise the rate; None: the share that `settings` name."""
        self.model, self.settings, self.total = model, settings, total
        self.warmup = warmup_steps(total, settings.warmup) if warmup is None else warmup
        self.optimizer = optimizer.adamw(settings.weight_decay)
        self.gradient = nn.value_and_grad(model, answer_loss)

    def update(self, window: Sequence[Batch], step: int, epoch: int) -> Update:
        """Update `step` (from 0) from the gradients of all batches in `window`, each token weighing the same.

        Raises MedloraError naming the update and the cases where loss or gradient is not a number; the
        adapter is then unchanged.
        """
        gradients, nll, tokens = None, 0.0, 0
        cases: list[str] = []
        where = f"update {step + 1}, epoch {epoch}"
        for part, batch in enumerate(window):
            cases += batch.case_ids
            mx.random.seed(_dropout_seed(self.settings.seed, step, part))
            value, found = self.gradient(self.model, batch)
            gradients = optimizer.add(gradients, found)
            mx.eval(value, gradients)
            nll, tokens = nll + float(value), tokens + batch.supervised
            refuse_broken("loss", nll, where, batch.case_ids)
        assert gradients is not None
        gradients, norm = optimizer.clip(optimizer.scale(gradients, 1 / tokens), self.settings.clip)
        refuse_broken("gradient", float(norm), where, cases)
        rate = learning_rate(step, self.total, self.warmup, self.settings.lr, self.settings.schedule)
        self.optimizer.learning_rate = rate
        self.optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), self.optimizer.state)
        return Update(nll / tokens, float(norm), rate, tokens, len(cases))


def _dropout_seed(seed: int, step: int, part: int) -> int:
    """Dropout depends on the place in the run alone, not on what drew random numbers before."""
    return int(np.random.SeedSequence([seed, step, part]).generate_state(1, np.uint64)[0])


def refuse_broken(what: str, value: float, where: str, cases: Sequence[str]) -> None:
    """Raise MedloraError where `value` is not a finite number."""
    if not math.isfinite(value):
        raise MedloraError(
            f"the {what} is {value} at {where}; cases: {', '.join(cases)}",
            hint="Lower --lr, or look at these cases; the adapter was not changed by this update.",
        )
