"""From a directory to a model with its weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
from mlx import nn

from mlx_medlora.device import prepare
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.model import Base, Origin, build
from mlx_medlora.gemma.vision import Projector, VisionTower
from mlx_medlora.gemma.weights import load_part, load_weights


def load_base(directory: Path, dtype: mx.Dtype | None = None) -> Base:
    """The model of a checkpoint directory, ready to answer, without an adapter.

    `dtype` (float32 or bfloat16) casts every tensor that is not quantised. Raises InputError where the
    configuration or the weights are absent, damaged or not Gemma 3's.
    """
    prepare()
    model = build(read_config(directory))
    load_weights(model, directory, dtype)
    model.origin = Origin(directory, dtype)
    model.eval()
    return model


class Tower(nn.Module):
    """Tower and projector without the text stack, under their published names."""

    def __init__(self, model: Base) -> None:
        super().__init__()
        config = model.config
        assert config.vision is not None
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(
            config.vision, config.text.hidden_size, config.mm_tokens_per_image
        )

    def __call__(self, pixel_values: mx.array) -> mx.array:
        """(N, 3, H, W) pixels -> (N, T, D) soft tokens."""
        return self.multi_modal_projector(self.vision_tower(pixel_values))


def load_tower(model: Base) -> Tower:
    """The tower and projector that `model` was loaded with, read again from where it came from.

    Raises InputError where the checkpoint is gone or damaged, ValueError for a model that was not loaded from
    a directory.
    """
    if model.origin is None:
        raise ValueError("this model was not loaded from a directory")
    tower = Tower(model)
    load_part(tower, model.origin.directory, model.config, model.origin.dtype)
    tower.eval()
    tower.freeze()
    return tower
