"""This toolkit as a contestant: `Trainer.update`, which `mlx-medlora train` runs for each step.

Everything that knows the trainer's insides is in `trainer` and `Ours.turn`.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import mlx_medlora.gemma  # noqa: F401  (the fast BLAS comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np
import numpy.typing as npt
from reference import ADAPTER, LEARNING_RATE, TARGETS, WEIGHT_DECAY, Rows, read
from turns import Turn

from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.trainer import Trainer

LAST_LAYER_PRUNED = True  # whether the last layer's queries and MLP run at supervised positions only


def settings(batch_size: int, *, dropout: float, epochs: int, checkpointing: bool = False) -> TrainSettings:
    """The reference adapter and optimiser, at a constant rate."""
    return TrainSettings(
        **{**ADAPTER, "dropout": dropout},
        target=TARGETS,
        batch_size=batch_size,
        epochs=epochs,
        schedule="constant",
        warmup=0.0,
        lr=LEARNING_RATE,
        weight_decay=WEIGHT_DECAY,
        grad_checkpoint="on" if checkpointing else "off",
    )


def examples(rows: Rows) -> list[Example]:
    """The rows as training takes them, their images named by their place."""
    return [
        Example(ids.astype(np.int32), supervised, (image_file(index),), f"row {index}", f"rows:{index + 1}")
        for index, (ids, supervised) in enumerate(zip(rows.ids, rows.supervised, strict=True))
    ]


def image_file(index: int) -> Path:
    """The name of a row's image."""
    return Path(f"image-{index}.png")


def look(model: Base, pixels: npt.NDArray[np.float32], cache: FeatureCache) -> None:
    """Compute the images' features one by one, and keep them in `cache`."""
    held = dict(cache.features)
    for index in range(len(pixels)):
        held[image_file(index)] = mx.contiguous(model.image_features(mx.array(pixels[index : index + 1]))[0])
        mx.eval(held[image_file(index)])
    cache.features = held


def trainer(model: Base, rows: list[Example], cache: FeatureCache, chosen: TrainSettings) -> Trainer:
    """Puts the adapter on `model`, and makes the trainer that `mlx-medlora train` makes, saving nothing."""
    attach(model, chosen, seed=chosen.seed)
    save: Any = lambda kind: None  # noqa: E731
    return Trainer(model, rows, [], cache, chosen, save=save)


class Ours:
    """A step with the images' features cached, or with `first_epoch` computed anew in each step."""

    def __init__(
        self,
        directory: str,
        *,
        first_epoch: bool = False,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        self.directory, self.first_epoch, self.dropout = Path(directory), first_epoch, dropout
        self.checkpointing = checkpointing

    def load(self) -> None:
        """The weights alone."""
        self.model = load_base(self.directory)
        self.weights = mx.get_active_memory()

    def prepare(self) -> None:
        """Adapter, batch, and the features where they are cached."""
        rows = read(self.directory)
        self.examples, self.pixels, self.cache = examples(rows), rows.pixels, FeatureCache()
        chosen = settings(
            len(self.examples), dropout=self.dropout, epochs=100_000, checkpointing=self.checkpointing
        )
        self.trainer = trainer(self.model, self.examples, self.cache, chosen)
        self.model.train()
        look(self.model, self.pixels, self.cache)
        mx.clear_cache()  # as the trainer does between epochs

    def turn(self, steps: int) -> Turn:
        """Train `steps` times."""
        mx.reset_peak_memory()
        seconds, loss = [], 0.0
        for _ in range(steps):
            start = perf_counter()
            if self.first_epoch:
                look(self.model, self.pixels, self.cache)
            loss = self.trainer.update([self.examples], 1).loss
            seconds.append(perf_counter() - start)
        return Turn(seconds, loss, mx.get_peak_memory() - self.weights)


class Matmul:
    """The machine's own rate: the best of a few products of two square matrices, in GFLOP/s."""

    def __init__(self, size: int = 2048, dtype: str = "float32") -> None:
        self.size, self.dtype = size, getattr(mx, dtype)

    def load(self) -> None:
        """Nothing has weights here."""

    def prepare(self) -> None:
        """The two matrices."""
        self.a, self.b = (mx.random.normal((self.size, self.size), self.dtype) for _ in range(2))
        mx.eval(self.a, self.b)

    def turn(self, steps: int) -> Turn:
        """Multiply `3 * steps` times."""
        seconds = []
        for _ in range(3 * steps):
            start = perf_counter()
            mx.eval(self.a @ self.b)
            seconds.append(perf_counter() - start)
        return Turn(seconds, 2 * self.size**3 / min(seconds) / 1e9)
