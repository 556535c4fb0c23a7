"""What training tells those who watch it: the public callback protocol.

A listener is any function of one event, given to `run_training(..., listeners=[...])`. It is called in the
run's own thread, in order, on the first rank only; what it raises ends the run. `docs/loggers.md` shows how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from mlx_medlora.features.report import FeatureUse


@dataclass(frozen=True)
class Features:
    """The features of `done` of `total` distinct images are known."""

    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something that is not as it should be and stops nothing."""

    text: str


@dataclass(frozen=True)
class States:
    """The frozen lower layers are done for `done` of `total` rows."""

    done: int
    total: int


@dataclass(frozen=True)
class Plan:
    """What is about to run. `steps` are updates in all; `validation_rows` is 0 without a val split.

    `replay_rows` of the `rows` are general ones.
    """

    rows: int
    validation_rows: int
    epochs: int
    steps: int
    trainable: int
    replay_rows: int = 0


@dataclass(frozen=True)
class Step:
    """One update. `step` counts from 1; `loss` is the mean over `tokens` supervised tokens.

    `gradient_norm` is the one before clipping; `rows_per_second` is over the run; memory in bytes. Of `rows`
    and `tokens`, `replay_rows` and `replay_tokens` are general ones; None in a run without any.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    tokens: int
    rows: int
    rows_per_second: float
    seconds_left: float
    peak_memory: int
    replay_rows: int | None = None
    replay_tokens: int | None = None


class Accuracy(NamedTuple):
    """The share of validation cases that were answered right, and its 95 % interval."""

    share: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Epoch:
    """The state after an epoch; epoch 0 is the base before training, so it has no train_loss.

    None stands for what was not measured, and for a perplexity too large for a float.
    `val_accuracy_interval` holds the ends of the 95 % interval.
    """

    epoch: int
    train_loss: float | None
    val_loss: float | None
    perplexity: float | None
    val_accuracy: float | None
    best: bool
    seconds: float
    val_accuracy_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Resumed:
    """A run goes on after update `step` of `steps`; `remarks` say what is not as it was."""

    step: int
    steps: int
    remarks: tuple[str, ...] = ()


Event = Features | States | FeatureUse | Notice | Plan | Step | Epoch | Resumed
Listener = Callable[[Event], None]
