"""The training loop: windows of batches become updates, epochs become the best and the last adapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import Buckets, collate
from mlx_medlora.training.events import Epoch, Event, Listener, Plan, Step
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.step import Stepper, Update, refuse_broken

Kind = Literal["best", "last"]
Save = Callable[[Kind], None]
Validate = Callable[[Base], float | None]


@dataclass
class Outcome:
    """What a run came to. `best_epoch` is by validation loss, or the last one without validation."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    steps: int = 0
    stopped_early: bool = False
    interrupted: bool = False


class Trainer:
    """Trains the adapter that `model` carries; the base stays as it is.

    `save` is told to keep the adapter as "best" or "last"; `validate` gives the validation accuracy, in
    any way, or None. The same seed, data and machine give the same adapter, byte for byte.
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
    ) -> None:
        """Raises InputError for an empty training set, or patience without validation."""
        if not train:
            raise InputError("there are no training examples")
        if settings.patience is not None and not val:
            raise InputError(
                "patience needs a validation split, and this dataset has none",
                hint="Leave --patience out, or prepare the dataset with a validation split.",
            )
        self.model, self.train, self.val, self.features = model, train, val, features
        self.settings, self.save, self.validate = settings, save, validate
        self.listeners = listeners
        self.outcome = Outcome()
        batches = math.ceil(len(train) / settings.batch_size)
        self.total = math.ceil(batches / settings.accumulate) * settings.epochs
        self.stepper = Stepper(model, settings, self.total)
        self.buckets = Buckets(train, settings.batch_size)
        self.val_buckets = Buckets(val, settings.batch_size)
        self.started = perf_counter()
        self.rows_done = 0

    def run(self) -> Outcome:
        """Train for all epochs, or until patience or the user ends it.

        An interrupt (Ctrl-C) after the first update keeps the adapter as it then is, and is told in the
        outcome. Raises MedloraError where a loss is not a number, before it reaches the adapter.
        """
        self._tell(self.plan())
        try:
            self._end_of_epoch(0, None)
            self.started = perf_counter()
            for epoch in range(1, self.settings.epochs + 1):
                self._end_of_epoch(epoch, self._epoch(epoch))
                if self._out_of_patience(epoch):
                    self.outcome.stopped_early = epoch < self.settings.epochs
                    break
        except KeyboardInterrupt:
            if self.outcome.steps == 0:
                raise
            self._keep_interrupted()
        return self.outcome

    def plan(self) -> Plan:
        """What `run` is going to do."""
        trained: dict[str, mx.array] = dict(tree_flatten(self.model.trainable_parameters()))
        trainable = sum(array.size for array in trained.values())
        return Plan(len(self.train), len(self.val), self.settings.epochs, self.total, trainable)

    def _tell(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event)

    def _epoch(self, epoch: int) -> float:
        """Train one epoch; the mean loss over its supervised tokens."""
        self.model.train()
        nll, tokens = 0.0, 0
        for window in self._windows(epoch):
            step = self.update(window, epoch)
            nll, tokens = nll + step.loss * step.tokens, tokens + step.tokens
            self._tell(step)
        return nll / tokens

    def _windows(self, epoch: int) -> Iterator[list[list[Example]]]:
        """The batches of each update; the last window of an epoch may hold fewer."""
        settings = self.settings
        batches = self.buckets.epoch(settings.seed, epoch)
        for start in range(0, len(batches), settings.accumulate):
            window = batches[start : start + settings.accumulate]
            yield [[self.train[index] for index in batch] for batch in window]

    def update(self, window: Sequence[Sequence[Example]], epoch: int) -> Step:
        """One update from the gradients of all batches in `window`, each token weighing the same.

        Raises MedloraError naming the update and the cases where loss or gradient is not a number.
        """
        batches = [
            collate(examples, self.features, self.model.config, self.buckets.shape(examples))
            for examples in window
        ]
        done = self.stepper.update(batches, self.outcome.steps, epoch)
        self.outcome.steps, self.rows_done = self.outcome.steps + 1, self.rows_done + done.rows
        return self._report(epoch, done)

    def _report(self, epoch: int, done: Update) -> Step:
        elapsed = perf_counter() - self.started
        steps = self.outcome.steps
        return Step(
            step=steps,
            epoch=epoch,
            loss=done.loss,
            learning_rate=done.rate,
            gradient_norm=done.norm,
            tokens=done.tokens,
            rows=done.rows,
            rows_per_second=self.rows_done / elapsed,
            seconds_left=elapsed / steps * (self.total - steps),
            peak_memory=mx.get_peak_memory(),
        )

    def _end_of_epoch(self, epoch: int, train_loss: float | None) -> None:
        """Validate, report, and keep the adapter as last and perhaps best; epoch 0 is the base's."""
        start = perf_counter()
        loss = self.validation_loss(epoch) if self.val else None
        accuracy = self.validate(self.model) if self.val and self.validate else None
        best = epoch > 0 and (loss is None or loss < self._lowest())
        if epoch:
            self.save("last")
        if best:
            self.save("best")
            self.outcome.best_epoch = epoch
        seconds = perf_counter() - start
        report = Epoch(epoch, train_loss, loss, _perplexity(loss), accuracy, best, seconds)
        self.outcome.epochs.append(report)
        self._tell(report)
        mx.clear_cache()

    def _lowest(self) -> float:
        losses = [e.val_loss for e in self.outcome.epochs if e.epoch and e.val_loss is not None]
        return min(losses, default=math.inf)

    def validation_loss(self, epoch: int) -> float:
        """Mean loss over the validation split's supervised tokens, without dropout."""
        self.model.eval()
        nll, tokens = 0.0, 0
        for indices in self.val_buckets.in_order():
            rows = [self.val[i] for i in indices]
            batch = collate(rows, self.features, self.model.config, self.val_buckets.shape(rows))
            nll, tokens = nll + float(answer_loss(self.model, batch.arrays)), tokens + batch.supervised
            refuse_broken("validation loss", nll, f"epoch {epoch}", batch.case_ids)
        return nll / tokens

    def _out_of_patience(self, epoch: int) -> bool:
        patience, best = self.settings.patience, self.outcome.best_epoch
        return patience is not None and best is not None and epoch - best >= patience

    def _keep_interrupted(self) -> None:
        self.outcome.interrupted = True
        self.save("last")
        if self.outcome.best_epoch is None:
            self.save("best")


def _perplexity(loss: float | None) -> float | None:
    """exp(loss), or None where that overflows or there is no loss."""
    return None if loss is None or loss > 700 else math.exp(loss)
