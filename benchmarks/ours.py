"""This toolkit as a contestant: `Trainer.update`, which `mlx-medlora train` runs for each step.

Everything that knows the trainer's insides is in `Rig`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx_medlora.gemma  # noqa: F401  (the fast BLAS comes before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from reference import ADAPTER, LEARNING_RATE, TARGETS, WEIGHT_DECAY, Rows, read
from turns import Turn

from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.vision import at_once
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.trainer import Trainer

LAST_LAYER_PRUNED = False  # whether the last layer's queries and MLP run at supervised positions only


class Rig:
    """One model with its adapter, and the trainer that takes steps on given rows."""

    def __init__(self, model: Base, rows: Rows, dropout: float) -> None:
        settings = TrainSettings(
            **{**ADAPTER, "dropout": dropout},
            target=TARGETS,
            batch_size=len(rows.ids),
            epochs=100_000,
            schedule="constant",
            warmup=0.0,
            lr=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
        )
        attach(model, settings, seed=settings.seed)
        self.model, self.pixels = model, rows.pixels
        self.files = [Path(f"image-{index}.png") for index in range(len(rows.pixels))]
        self.examples = [
            Example(ids.astype(np.int32), supervised, (file,), f"row {index}", f"rows:{index + 1}")
            for index, (ids, supervised, file) in enumerate(
                zip(rows.ids, rows.supervised, self.files, strict=True)
            )
        ]
        self.features = FeatureCache()
        save: Any = lambda kind: None  # noqa: E731
        self.trainer = Trainer(model, self.examples, [], self.features, settings, save=save)

    def look(self) -> None:
        """Compute the images' features, as the first epoch does."""
        size = at_once(self.model.config.vision)
        for start in range(0, len(self.files), size):
            pixels = mx.array(self.pixels[start : start + size])
            found = [mx.contiguous(one) for one in self.model.image_features(pixels)]
            mx.eval(found)
            self.features.features.update(zip(self.files[start : start + size], found, strict=True))

    def step(self, chosen: Sequence[int] | None = None) -> float:
        """One update on all rows, or on the `chosen` ones; its loss."""
        self.model.train()
        batch = self.examples if chosen is None else [self.examples[index] for index in chosen]
        return self.trainer.update([batch], 1).loss


class Ours:
    """A step with the images' features cached, or with `first_epoch` computed anew in each step."""

    def __init__(self, directory: str, *, first_epoch: bool = False, dropout: float = 0.0) -> None:
        self.directory, self.first_epoch, self.dropout = Path(directory), first_epoch, dropout

    def load(self) -> None:
        """The weights alone."""
        self.model = load_base(self.directory)
        self.weights = mx.get_active_memory()

    def prepare(self) -> None:
        """Adapter, batch, and the features where they are cached."""
        self.rig = Rig(self.model, read(self.directory), self.dropout)
        if not self.first_epoch:
            self.rig.look()
        mx.clear_cache()  # as the trainer does between epochs

    def turn(self, steps: int) -> Turn:
        """Train `steps` times."""
        mx.reset_peak_memory()
        seconds, loss = [], 0.0
        for _ in range(steps):
            start = perf_counter()
            if self.first_epoch:
                self.rig.look()
            loss = self.rig.step()
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
