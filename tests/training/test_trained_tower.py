"""SigLIP's tower can be trained: its batches hold pixels, and gradients reach its layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from PIL import Image

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.training import features as features_module
from mlx_medlora.training.batches import collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, PixelSource
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.settings import TrainSettings


class Grey:
    """Stands in for the encoder: a picture's pixels are its one grey value."""

    def __init__(self, side: int) -> None:
        self.side = side

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        values = [image.getpixel((0, 0))[0] / 255 for image in images]
        return np.stack([np.full((3, self.side, self.side), value, np.float32) for value in values])


@pytest.fixture
def pixels(tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> PixelSource:
    def open_image(file: object) -> Image.Image:
        return Image.new("RGB", (4, 4), (40 * len(str(file)), 0, 0))

    monkeypatch.setattr(features_module, "open_image", open_image)
    assert tiny_config.vision is not None
    return PixelSource(Grey(tiny_config.vision.image_size))  # type: ignore[arg-type]


def test_gradients_reach_the_tower(
    adapted: Callable[[TrainSettings], Base], mixed: list[Example], pixels: PixelSource
) -> None:
    model = adapted(TrainSettings(rank=2, target=("all-linear",), dropout=0))
    batch = collate(mixed, pixels, model.config).arrays
    assert batch.features is None
    assert batch.pixels is not None
    assert batch.pixels.shape[0] == 3
    _, found = nn.value_and_grad(model, answer_loss)(model, batch)
    towers = {
        name: g for name, g in tree_flatten(found) if name.startswith("vision_tower") and "lora_b" in name
    }
    assert len(towers) == 12
    assert all(mx.abs(gradient).max() > 0 for gradient in towers.values())


def test_pixels_and_features_give_the_same_loss(
    adapted: Callable[[TrainSettings], Base], mixed: list[Example], pixels: PixelSource
) -> None:
    model = adapted(TrainSettings(rank=2))
    files = {file for example in mixed for file in example.images}
    cache = FeatureCache({file: model.image_features(pixels.stack([file]))[0] for file in files})
    batches = [collate(mixed, source, model.config) for source in (cache, pixels)]
    losses = [answer_loss(model.eval(), batch.arrays) for batch in batches]
    assert mx.allclose(*losses, rtol=1e-6)
