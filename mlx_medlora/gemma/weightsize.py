"""How much memory a checkpoint's weights take, from its configuration alone."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import build

_VISION = (names.TOWER, names.PROJECTOR)


class WeightBytes(NamedTuple):
    """Bytes of the language model (embedding once) and of tower with projector, and parameters in all."""

    text: int
    tower: int
    parameters: int


def weight_bytes(config: ModelConfig) -> WeightBytes:
    """Sizes in memory as `load_base` holds them: packed matrices stay packed, no copy of the head."""
    arrays: dict[str, mx.array] = dict(tree_flatten(build(config).parameters()))  # named, never computed
    text = tower = parameters = 0
    for name, array in arrays.items():
        parameters += array.size
        if name.startswith(_VISION):
            tower += array.size * _plain(config)
        else:
            text += _text_bytes(config, tuple(array.shape))
    return WeightBytes(text, tower, parameters)


def _text_bytes(config: ModelConfig, shape: tuple[int, ...]) -> int:
    packed = config.quantization
    if packed is None or len(shape) != 2:
        return prod(shape) * _plain(config)
    scales_and_biases = 2 * prod(shape) // packed.group_size * _plain(config)
    return prod(shape) * packed.bits // 8 + scales_and_biases


def _plain(config: ModelConfig) -> int:
    return 4 if config.dtype == "float32" else 2
