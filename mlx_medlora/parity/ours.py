"""This side of the ladder: our forward, loss and gradients on the reference's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.parity.inputs import Batch, Row
from mlx_medlora.parity.results import Array
from mlx_medlora.training.batches import Batch as TrainingBatch
from mlx_medlora.training.batches import collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.loss import answer_loss


class HeldPixels(PixelSource):
    """Pixels that are there already, by the name of their image."""

    def __init__(self, pixels: dict[Path, Array]) -> None:
        self.pixels, self.features = pixels, {}

    def stack(self, files: Sequence[Path]) -> mx.array:
        """(N, 3, H, W)."""
        return mx.array(np.stack([self.pixels[file] for file in files]))


def features(model: Base, pixels: Array) -> Array:
    """(N, T, D) image features."""
    return np.array(model.image_features(mx.array(pixels)).astype(mx.float32))


def logits(model: Base, batch: Batch, given: Array | None) -> Array:
    """(B, L, V) logits of a batch whose image features are `given`."""
    ids = mx.array(batch["input_ids"])
    types = None if given is None else mx.array(batch["token_type_ids"])
    embedded = model.embed(ids, None if given is None else mx.array(given))
    hidden = model.hidden(embedded, mx.array(batch["attention_mask"]), types)
    return np.array(model.head(hidden).astype(mx.float32))


def examples(rows: Sequence[Row]) -> list[Example]:
    """Rows as training takes them; images are named by their place."""
    made, seen = [], 0
    for index, row in enumerate(rows):
        names = tuple(Path(f"image-{seen + place}") for place in range(len(row.images)))
        seen += len(names)
        made.append(
            Example(row.ids.astype(np.int32), row.supervised, names, f"row {index}", f"rows:{index + 1}")
        )
    return made


def source(pixels: Array | None, given: Array | None, *, trained_tower: bool) -> ImageSource:
    """The images as training takes them: features, or pixels where the tower is trained."""
    if trained_tower and pixels is not None:
        return HeldPixels({Path(f"image-{index}"): one for index, one in enumerate(pixels)})
    named = () if given is None else enumerate(given)
    return FeatureCache({Path(f"image-{index}"): mx.array(one) for index, one in named})


def training_batch(rows: Sequence[Row], config: ModelConfig, images: ImageSource) -> TrainingBatch:
    """All rows in one batch, as training pads them."""
    return collate(examples(rows), images, config)


def loss(model: Base, batch: TrainingBatch) -> float:
    """Mean loss over the supervised tokens."""
    return float(answer_loss(model, batch.arrays)) / batch.supervised


def gradients(model: Base, batch: TrainingBatch) -> dict[str, Array]:
    """The mean loss's gradient of every trained tensor."""
    _, found = nn.value_and_grad(model, answer_loss)(model, batch.arrays)
    named: dict[str, mx.array] = dict(tree_flatten(found))
    return {name: np.array(array) / batch.supervised for name, array in named.items()}
