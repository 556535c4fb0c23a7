"""Dropout whose masks depend on the place in the run alone, row by row.

A row's mask comes from a key of its own, so it is the same however the rows of a batch are divided among
processes, and when a checkpointed layer is computed a second time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from mlx import nn

from mlx_medlora.gemma import names

_TOWER = names.TOWER.partition(".")[0]


class RowDropout:
    """Drops a share `rate` of a layer's inputs in training; the rest is scaled by 1 / (1 - rate).

    `keys` (B, 2) uint32 are the rows' own (the images', in SigLIP's tower); without them MLX's global random
    state decides.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.keys: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """(B, ..., in) -> the same shape."""
        if self.rate == 0:
            return x
        kept = 1 - self.rate
        if self.keys is None:
            mask = mx.random.bernoulli(kept, x.shape)
        else:
            mask = mx.vmap(lambda key: mx.random.bernoulli(kept, x.shape[1:], key))(self.keys)
        return mx.where(mask, x * (1 / kept), 0)


class Keys(NamedTuple):
    """Keys of a batch: rows (B, 2), and images (N, 2) in reading order for a trained tower, or None."""

    rows: mx.array
    images: mx.array | None = None


def batch_keys(
    seed: int, step: int, part: int, rows: Sequence[int], images: Sequence[int] | None = None
) -> Keys:
    """Keys of batch `part` of update `step`, by the places `rows` that its rows have in the whole batch.

    `images` says how many images each row has, where the tower that sees them is trained.
    """
    own = _keys([[seed, step, part, row] for row in rows])
    if images is None:
        return Keys(own)
    places = [(row, image) for row, count in zip(rows, images, strict=True) for image in range(count)]
    return Keys(own, _keys([[seed, step, part, row, image + 1] for row, image in places]))


def _keys(entropy: Sequence[Sequence[int]]) -> mx.array:
    """(len(entropy), 2) uint32."""
    states = [np.random.SeedSequence(list(one)).generate_state(2) for one in entropy]
    return mx.array(np.stack(states)) if states else mx.zeros((0, 2), mx.uint32)


@contextmanager
def keyed(model: nn.Module, keys: Keys | None) -> Iterator[None]:
    """Within the block, the adapted layers of `model` draw their masks from `keys`: SigLIP's by image."""
    found = [(name, getattr(module, "dropout", None)) for name, module in model.named_modules()]
    layers = [(name, one) for name, one in found if isinstance(one, RowDropout) and one.rate]
    if keys is not None:
        _give([one for name, one in layers if not name.startswith(_TOWER)], keys.rows)
        _give([one for name, one in layers if name.startswith(_TOWER)], keys.images)
    try:
        yield
    finally:
        for _, layer in layers:
            layer.keys = None


def _give(layers: Sequence[RowDropout], keys: mx.array | None) -> None:
    """Let each layer have keys of its own, made from `keys` (B, 2)."""
    if not layers or keys is None or not keys.shape[0]:
        return
    own = mx.vmap(lambda key: mx.random.split(key, len(layers)))(keys)  # (B, layers, 2)
    for index, layer in enumerate(layers):
        layer.keys = own[:, index]
