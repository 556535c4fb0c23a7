"""Key/value caches for generation: mlx-lm's, one for each layer, with the number of tokens seen."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache

from mlx_medlora.gemma.config import TextConfig
from mlx_medlora.gemma.masks import Masks

State = tuple[int, list[tuple[Any, ...]]]


class Cache:
    """One cache a layer; sliding layers keep only their window.

    `left_padding` gives, for each row of the batch, how many of its first tokens are padding.
    The whole prompt goes in as one piece: a boundary inside an image block would break it.
    """

    def __init__(self, config: TextConfig, left_padding: list[int]) -> None:
        self.length = 0
        self.window = config.sliding_window
        self.kinds = config.layer_types
        self.layers = [
            BatchKVCache(left_padding)
            if kind == "full_attention"
            else BatchRotatingKVCache(config.sliding_window, left_padding)
            for kind in config.layer_types
        ]

    def decode_masks(self) -> Masks:
        """Masks for one more token in each row: (B, 1, 1, K) booleans over what the caches hold."""
        found: dict[str, mx.array] = {}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            if kind not in found:
                window = {"window_size": self.window} if kind == "sliding_attention" else {}
                found[kind] = layer.make_mask(1, **window)
        return Masks(found.get("full_attention"), found.get("sliding_attention"))

    def snapshot(self) -> State:
        """What `restore` needs to come back here after more tokens were fed."""
        return self.length, [_copied(layer.state) for layer in self.layers]

    def restore(self, state: State) -> None:
        """Forget everything fed since `snapshot` gave `state`; a state can be restored many times."""
        self.length, states = state
        for layer, kept in zip(self.layers, states, strict=True):
            layer.state = _copied(kept)


def _copied(state: Any) -> tuple[Any, ...]:
    # mlx-lm writes into its arrays in place: a new array object keeps the old content.
    return tuple(part[...] if isinstance(part, mx.array) else part for part in state)
