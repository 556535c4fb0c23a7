"""Trainers on a few rows, and what they tell."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from mlx.utils import tree_flatten

from mlx_medlora.gemma.model import Base
from mlx_medlora.training.events import Accuracy, Epoch, Event, Step
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.trainer import Kind, Trainer

QUICK = TrainSettings(rank=4, dropout=0.0, lr=1e-2, epochs=2, batch_size=2, warmup=0.0, schedule="constant")
Adapted = Callable[[TrainSettings], Base]
MakeExample = Callable[..., Example]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate({**QUICK.model_dump(), **changes})


class Watch:
    """Hears every event and every save."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.saves: list[Kind] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    @property
    def steps(self) -> list[Step]:
        return [event for event in self.events if isinstance(event, Step)]

    @property
    def epochs(self) -> list[Epoch]:
        return [event for event in self.events if isinstance(event, Epoch)]


def trainer(
    model: Base,
    train: list[Example],
    features: FeatureCache,
    chosen: TrainSettings,
    val: list[Example] | None = None,
    validate: Callable[[Base], Accuracy | None] | None = None,
) -> tuple[Trainer, Watch]:
    watch = Watch()
    made = Trainer(
        model,
        train,
        val or [],
        features,
        chosen,
        save=watch.saves.append,
        listeners=[watch],
        validate=validate,
    )
    return made, watch


def adapter_of(model: Base) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tree_flatten(model.trainable_parameters())}
