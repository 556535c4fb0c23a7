"""The training loop: windows of batches become updates, epochs become the best and the last adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from time import perf_counter
from typing import Literal, Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError, NotANumber
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import Batch, Below
from mlx_medlora.training.buckets import Buckets
from mlx_medlora.training.events import Accuracy, Epoch, Event, Listener, Plan, Step
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource
from mlx_medlora.training.feed import Feed
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.place import Outcome, Place
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import row_shapes
from mlx_medlora.training.spoilt import is_spoilt
from mlx_medlora.training.step import Stepper, Update, refuse_broken

Kind = Literal["best", "last"]
Save = Callable[[Kind], None]
_KEPT = "this epoch's updates are not kept"
_AT_START = "nothing was trained yet"
_SPOILT = "Lower --lr: updates have spoilt the adapter, without it these rows give numbers."
Validate = Callable[[Base], Accuracy | None]


class Keeper(Protocol):
    """Keeps the state of a run as it goes, and may end it with an exception."""

    def after_update(self, trainer: Trainer) -> None:
        """Hear that an update is done."""

    def after_epoch(self, trainer: Trainer) -> None:
        """Hear that an epoch is done and validated."""

    def before_failure(self, trainer: Trainer) -> None:
        """Hear that an update is refused, on all ranks at once; all is as it was before it, or `spoilt`."""

    def validating(self, trainer: Trainer) -> AbstractContextManager[None]:
        """A context around each validation, which changes nothing in the state and, failing, keeps it."""


class Trainer:
    """Trains the adapter that `model` carries; the base stays as it is.

    `save` is told to keep the adapter as "best" or "last"; `validate` gives the validation accuracy, in
    any way, or None. The same seed, data and machine give the same adapter, byte for byte. To continue a
    run, set `place`, `outcome`, the adapter and the optimiser's state before `run`.
    """

    def __init__(
        self,
        model: Base,
        train: Sequence[Example],
        val: Sequence[Example],
        features: ImageSource,
        settings: TrainSettings,
        *,
        save: Save,
        listeners: Sequence[Listener] = (),
        validate: Validate | None = None,
        keeper: Keeper | None = None,
        ranks: Ranks = ALONE,
        below: Below | None = None,
        recompute: bool | None = None,
        shards: int | None = None,
    ) -> None:
        """Each batch is computed in `shards`, one for each rank by default.

        Raises InputError for an empty training set, or patience without validation."""
        if not train:
            raise InputError("there are no training examples")
        if settings.patience is not None and not val:
            raise InputError(
                "patience needs a validation split, and this dataset has none",
                hint="Leave --patience out, or prepare the dataset with a validation split.",
            )
        self.model, self.train, self.val = model, train, val
        self.settings, self.save, self.validate = settings, save, validate
        self.listeners, self.keeper, self.ranks = listeners, keeper, ranks
        self.outcome, self.place = Outcome(), Place()
        self.spoilt: list[Batch] = []  # what gives no number because of the adapter
        batches = math.ceil(len(train) / settings.batch_size)
        self.per_epoch = math.ceil(batches / settings.accumulate)
        total, shards = self.per_epoch * settings.epochs, shards or ranks.size
        self.stepper = Stepper(model, settings, total, ranks=ranks, recompute=recompute, shards=shards)
        self.feed = Feed(model.config, features, below, ranks, shards)
        self.buckets = Buckets(row_shapes(train), settings.batch_size)
        self.val_buckets = Buckets(row_shapes(val), settings.batch_size)
        self.started = perf_counter()
        self.rows_done = self.steps_done = 0  # by this process, since `started`

    def run(self) -> Outcome:
        """Train from where the run stands, for all epochs or until patience ends it.

        Raises MedloraError where a loss is not a number, before it reaches the adapter.
        """
        self._tell(self.plan())
        if self.place.epoch == 0:
            self._end_of_epoch(None)
        self.started = perf_counter()
        while self.place.epoch <= self.settings.epochs and not self._out_of_patience():
            self._end_of_epoch(self._epoch())
        self.outcome.stopped_early = self.place.epoch <= self.settings.epochs
        return self.outcome

    @property
    def total(self) -> int:
        """Updates of the whole run, those of an epoch that was begun again included."""
        return self.stepper.course.end

    def updates_left(self) -> int:
        """Updates from `place` to the end of all epochs."""
        epochs = self.settings.epochs + 1 - max(1, self.place.epoch)
        return self.per_epoch * epochs - self.place.updates if epochs > 0 else 0

    def plan(self) -> Plan:
        """What `run` is going to do."""
        trained: dict[str, mx.array] = dict(tree_flatten(self.model.trainable_parameters()))
        trainable = sum(array.size for array in trained.values())
        replayed = sum(example.replay for example in self.train)
        return Plan(len(self.train), len(self.val), self.settings.epochs, self.total, trainable, replayed)

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _epoch(self) -> float:
        """Train what is left of the epoch; the mean loss over all its supervised tokens."""
        self.model.train()
        for window in islice(self._windows(self.place.epoch), self.place.updates, None):
            step = self.update(window, self.place.epoch)
            self.place.add(step)
            self._tell(step)
            if self.keeper:
                self.keeper.after_update(self)
        return self.place.nll / self.place.tokens

    def _windows(self, epoch: int) -> Iterator[list[list[Example]]]:
        """The batches of each update; the last window of an epoch may hold fewer."""
        settings = self.settings
        batches = self.buckets.epoch(settings.seed, epoch)
        for start in range(0, len(batches), settings.accumulate):
            window = batches[start : start + settings.accumulate]
            yield [[self.train[index] for index in batch] for batch in window]

    def update(self, window: Sequence[Sequence[Example]], epoch: int) -> Step:
        """One update from the gradients of all batches in `window`, each token weighing the same.

        Raises NotANumber naming the update and the rows where loss or gradient is not one; adapter and
        optimiser are then as they were, and the keeper has been told so.
        """
        batches = list(self.feed.batches(window, self.buckets))
        try:
            done = self.stepper.update(batches, self.outcome.steps, epoch)
        except NotANumber as error:
            try:
                self._blame(error, [example for examples in window for example in examples])
            finally:
                if self.keeper:
                    self.keeper.before_failure(self)
            raise
        rows = sum(len(examples) for examples in window)
        self.outcome.steps, self.steps_done = self.outcome.steps + 1, self.steps_done + 1
        self.rows_done += rows
        self.outcome.at_best = False
        return replace(self._report(epoch, done, rows), **self._replayed(window))

    def _replayed(self, window: Sequence[Sequence[Example]]) -> dict[str, int]:
        """How many rows and supervised tokens of an update are general ones; nothing in a run without any."""
        if not self.settings.replay:
            return {}
        general = [example for examples in window for example in examples if example.replay]
        return {"replay_rows": len(general), "replay_tokens": sum(example.targets for example in general)}

    def _blame(self, error: NotANumber, examples: Sequence[Example]) -> None:
        """Add to `error` those of its `examples` that alone give no number, or all where each alone does.

        Where they give one without the adapter, updates have spoilt it: they are `spoilt` then.
        """
        self.model.eval()
        broken = [example for example in examples if not self.stepper.is_sound(self.feed.alone(example))]
        named = [f"{example.where} (case {example.case_id})" for example in broken or examples]
        error.message += f"; row: {', '.join(named)}" if broken else f"; among the rows {', '.join(named)}"
        batches = [self.feed.alone(example) for example in broken]
        if is_spoilt(self.model, batches, self.stepper.first):
            self.spoilt, error.hint = batches, _SPOILT

    def _report(self, epoch: int, done: Update, rows: int) -> Step:
        elapsed = perf_counter() - self.started
        return Step(
            step=self.outcome.steps,
            epoch=epoch,
            loss=done.loss,
            learning_rate=done.rate,
            gradient_norm=done.norm,
            tokens=done.tokens,
            rows=rows,
            rows_per_second=self.rows_done / elapsed,
            seconds_left=elapsed / self.steps_done * (self.total - self.outcome.steps),
            peak_memory=mx.get_peak_memory(),
        )

    def _end_of_epoch(self, train_loss: float | None) -> None:
        """Validate, report, and keep the adapter as last and perhaps best; epoch 0 is the base's."""
        start, epoch = perf_counter(), self.place.epoch
        with self.keeper.validating(self) if self.keeper else nullcontext():
            loss = self.validation_loss(epoch) if self.val else None
            accuracy = self.validate(self.model) if self.val and self.validate else None
        best = epoch > 0 and (loss is None or loss < self._lowest())
        if epoch:
            self.save("last")
        if best:
            self.save("best")
            self.outcome.best_epoch, self.outcome.at_best = epoch, True
        seconds = perf_counter() - start
        share, interval = (None, None) if accuracy is None else accuracy
        report = Epoch(epoch, train_loss, loss, _perplexity(loss), share, best, seconds, interval)
        self.outcome.epochs.append(report)
        self._tell(report)
        self.place = Place(epoch + 1)
        if self.keeper:
            self.keeper.after_epoch(self)
        mx.clear_cache()

    def _lowest(self) -> float:
        losses = [e.val_loss for e in self.outcome.epochs if e.epoch and e.val_loss is not None]
        return min(losses, default=math.inf)

    def validation_loss(self, epoch: int) -> float:
        """Mean loss over the validation split's supervised tokens, without dropout."""
        self.model.eval()
        nll, tokens = 0.0, 0
        broken: list[Example] = []
        for indices in self.val_buckets.in_order():
            rows = [self.val[index] for index in indices]
            for batch in self.feed.batches([rows], self.val_buckets):
                own_loss = float(answer_loss(self.model, batch.arrays, first=self.stepper.first))
                nll, tokens = nll + own_loss, tokens + batch.supervised
                broken = broken or ([] if math.isfinite(own_loss) else rows)
            if broken:
                break
        nll, tokens = self.ranks.total(nll, tokens)  # what is no number on one rank is none on all
        try:
            refuse_broken("validation loss", nll, f"epoch {epoch}", kept=_KEPT if epoch else _AT_START)
        except NotANumber as error:
            if broken:
                self._blame(error, broken)
            raise
        return nll / tokens

    def _out_of_patience(self) -> bool:
        patience, best = self.settings.patience, self.outcome.best_epoch
        return patience is not None and best is not None and self.place.epoch - 1 - best >= patience


def _perplexity(loss: float | None) -> float | None:
    """exp(loss), or None where that overflows or there is no loss."""
    return None if loss is None or loss > 700 else math.exp(loss)
