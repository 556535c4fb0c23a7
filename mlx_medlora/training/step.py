"""One update in one compiled function: loss, gradients, clipping, AdamW.

A function is traced once for each shape of batch. Dropout's keys and the learning rate are its inputs, and
whether loss and gradient are numbers is decided inside, so that nothing waits for the host between them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_map

from mlx_medlora.errors import NotANumber
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.dropout import Keys, batch_keys, keyed
from mlx_medlora.training import optimizer
from mlx_medlora.training.batches import Arrays, Batch
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.ranks import ALONE, Ranks, Share
from mlx_medlora.training.schedule import Course, warmup_steps
from mlx_medlora.training.settings import TrainSettings

Tree = Any  # dicts and lists of arrays
_New = tuple[Tree, Tree, mx.array, mx.array]  # parameters, optimiser state, loss, gradient norm


@dataclass(frozen=True)
class Update:
    """What one update came to: mean `loss` over `tokens` supervised tokens, gradient `norm` unclipped."""

    loss: float
    norm: float
    rate: float
    tokens: int
    rows: int


class Stepper:
    """Takes the updates of a run of `total`; holds the optimiser, which a checkpoint must keep.

    `traces` counts how often a function was traced: not again once every shape has been seen.
    """

    def __init__(
        self,
        model: Base,
        settings: TrainSettings,
        total: int,
        warmup: int | None = None,
        ranks: Ranks = ALONE,
        recompute: bool | None = None,
        shards: int | None = None,
    ) -> None:
        """`warmup` updates raise the rate; None: the share that `settings` name. `shards` of all ranks.

        `recompute` is gradient checkpointing; None: on where `settings` say so, and not by `auto`.
        """
        self.model, self.settings, self.ranks = model, settings, ranks
        self.shards = shards or ranks.size
        self.course = Course.whole(total, warmup_steps(total, settings.warmup) if warmup is None else warmup)
        self.optimizer = optimizer.adamw(settings.weight_decay)
        self.optimizer.init(model.trainable_parameters())
        self.recompute = settings.grad_checkpoint == "on" if recompute is None else recompute
        self.traces = 0
        self.first = settings.first_layer(model.config.text.num_hidden_layers)
        self.gradient = nn.value_and_grad(
            model, lambda arrays: answer_loss(model, arrays, self.recompute, first=self.first)
        )
        self._add = mx.compile(self._summed)
        self._step = mx.compile(self._whole)
        self._apply = mx.compile(self._applied)

    def update(self, window: Sequence[Batch], step: int, epoch: int) -> Update:
        """Update `step` (from 0) from the gradients of all batches in `window`, each token weighing the same.

        They hold this rank's rows. Raises NotANumber naming the update where loss or gradient is not one; the
        adapter and the optimiser are then unchanged.
        """
        rate = self.course.rate(step, self.settings.lr, self.settings.schedule)
        before = self.model.trainable_parameters(), dict(self.optimizer.state)
        try:
            found, state, nll, norm, tokens = self._updated(window, step, rate, *before)
        except BaseException:  # tracing leaves arrays behind that have no values
            found, state = before
            raise
        finally:
            self.model.update(found)
            self.optimizer.state = state
        refuse_broken("loss", nll, f"update {step + 1}, epoch {epoch}")
        refuse_broken("gradient", norm, f"update {step + 1}, epoch {epoch}")
        return Update(nll / tokens, norm, rate, tokens, sum(len(batch.case_ids) for batch in window))

    def is_sound(self, batch: Batch) -> bool:
        """Whether loss and gradients of `batch` are numbers, as the adapter stands."""
        loss, gradients = self.gradient(batch.arrays)
        leaves: dict[str, mx.array] = dict(tree_flatten(gradients))
        return all(bool(mx.isfinite(array).all()) for array in (loss, *leaves.values()))

    def _updated(
        self, window: Sequence[Batch], step: int, rate: float, parameters: Tree, state: Tree
    ) -> tuple[Tree, Tree, float, float, int]:
        """New parameters and state, summed loss, gradient norm and supervised tokens: one function or two.

        Two with accumulation even where a window holds one batch, as an epoch's last may: that is another
        batch in each epoch, and the one function would be traced anew for its shape.
        """
        tokens = sum(batch.supervised for batch in window)
        if self.shards == 1 and self.settings.accumulate == 1 and len(window) == 1:
            scalars = mx.array([tokens, rate], mx.float32)
            found = self._step(parameters, state, scalars, window[0].arrays, self._keys(step, window[0]))
        else:
            own = self.ranks.shards(self.shards)
            shares = [self._sums([b for b in window if b.shard == one], parameters, step) for one in own]
            gradients, nll, tokens = self.ranks.sum(shares, tokens, parameters)
            scalars = mx.array([tokens, rate], mx.float32)
            found = self._apply(parameters, state, mx.array(nll), gradients, scalars)
        mx.eval(found)
        return found[0], found[1], float(found[2]), float(found[3]), tokens

    def _sums(self, batches: Sequence[Batch], parameters: Tree, step: int) -> Share | None:
        """Loss and gradients of one shard's rows; None without any.

        They are added to zeros from the first batch on: so it is one function, traced once for each shape.
        """
        if not batches:
            return None
        sums: Share = mx.array(0.0), tree_map(mx.zeros_like, parameters)
        for batch in batches:
            sums = self._add(parameters, sums, batch.arrays, self._keys(step, batch))
            mx.eval(sums)
        return sums

    def _keys(self, step: int, batch: Batch) -> Keys | None:
        if self.settings.dropout == 0:
            return None
        seen = None if batch.arrays.pixels is None else batch.images
        return batch_keys(self.settings.seed, step, batch.part, batch.places, seen)

    def _found(self, parameters: Tree, arrays: Arrays, keys: Keys | None) -> Share:
        """Traced: this batch's loss and gradients."""
        self.traces += 1
        self.model.update(parameters)
        with keyed(self.model, keys and Keys(*keys)):
            nll, gradients = self.gradient(Arrays(*arrays))
        return nll, gradients

    def _summed(self, parameters: Tree, sums: Share, arrays: Arrays, keys: Keys | None) -> Share:
        """Traced: `sums` with this batch's loss and gradients added."""
        nll, gradients = self._found(parameters, arrays, keys)
        return sums[0] + nll, optimizer.add(sums[1], gradients)

    def _whole(
        self, parameters: Tree, state: Tree, scalars: mx.array, arrays: Arrays, keys: Keys | None
    ) -> _New:
        """Traced: one batch's loss and gradients, then the update."""
        nll, gradients = self._found(parameters, arrays, keys)
        return self._applied(parameters, state, nll, gradients, scalars)

    def _applied(
        self, parameters: Tree, state: Tree, nll: mx.array, gradients: Tree, scalars: mx.array
    ) -> _New:
        """Traced: new parameters and optimiser state; the old ones where loss or gradient is not a number."""
        gradients, norm = optimizer.clip(optimizer.scale(gradients, 1 / scalars[0]), self.settings.clip)
        self.optimizer.state = dict(state)
        self.optimizer.learning_rate = scalars[1]
        updated = self.optimizer.apply_gradients(gradients, parameters)
        sound = mx.isfinite(nll) & mx.isfinite(norm)
        keep = lambda new, old: mx.where(sound, new, old)  # noqa: E731
        return tree_map(keep, updated, parameters), tree_map(keep, self.optimizer.state, state), nll, norm


UNCHANGED = "the adapter was not changed by this update"


def refuse_broken(what: str, value: float, where: str, kept: str = UNCHANGED) -> None:
    """Raise NotANumber where `value` is not a finite number; `kept` says what that cost."""
    if not math.isfinite(value):
        hint = f"Lower --lr, or look at these rows; {kept}."
        raise NotANumber(f"the {what} is {value} at {where}", hint=hint)
