"""Dropout whose masks depend on the place in the run alone, row by row.

A row's mask comes from a key of its own, so it is the same however the rows of a batch are divided among
processes, and when a checkpointed layer is computed a second time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import numpy as np
from mlx import nn


class RowDropout:
    """Drops a share `rate` of a layer's inputs in training; the rest is scaled by 1 / (1 - rate).

    `keys` (B, 2) uint32 are the rows' own; without them MLX's global random state decides.
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


def row_keys(seed: int, step: int, part: int, rows: range) -> mx.array:
    """(len(rows), 2) uint32: keys of `rows` of batch `part` of update `step`."""
    states = [np.random.SeedSequence([seed, step, part, row]).generate_state(2) for row in rows]
    return mx.array(np.stack(states)) if states else mx.zeros((0, 2), mx.uint32)


@contextmanager
def keyed(model: nn.Module, keys: mx.array | None) -> Iterator[None]:
    """Within the block, the adapted layers of `model` draw their masks from the rows' `keys` (B, 2)."""
    found = [getattr(module, "dropout", None) for module in model.modules()]
    layers = [one for one in found if isinstance(one, RowDropout)]
    if keys is not None and layers and any(layer.rate for layer in layers):
        own = mx.vmap(lambda key: mx.random.split(key, len(layers)))(keys)  # (B, layers, 2)
        for index, layer in enumerate(layers):
            layer.keys = own[:, index]
    try:
        yield
    finally:
        for layer in layers:
            layer.keys = None
