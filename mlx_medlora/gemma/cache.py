"""Key/value caches for generation: mlx-lm's, one for each layer, with the number of tokens seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, BatchRotatingKVCache

from mlx_medlora.gemma.config import TextConfig
from mlx_medlora.gemma.masks import Masks

State = tuple[int, list[dict[str, Any]]]


class Cache:
    """What the text stack asks of a cache: the number of tokens it holds, and one cache a layer.

    Each layer's has `update_and_fetch(keys, values)`, as mlx-lm's have: it takes those of the new tokens and
    gives those to attend to.
    """

    length: int
    layers: list[Any]

    def decode_masks(self) -> Masks:
        """Masks for one more token in each row. Raises ValueError where a cache is not for writing."""
        raise ValueError("this cache does not take one token at a time")


class WritingCache(Cache):
    """mlx-lm's caches, for writing token by token; sliding layers keep only their window.

    `held` gives for each layer the keys and values (B, G, K, E) of rows that were read, each from position 0;
    `lengths` how many of its K belong to each row, the others being padding at its end.
    """

    def __init__(
        self, config: TextConfig, held: Sequence[tuple[mx.array, mx.array]], lengths: Sequence[int]
    ) -> None:
        self.window = config.sliding_window
        self.kinds = config.layer_types
        self.length = max(lengths)
        self.padding = [self.length - length for length in lengths]
        self.layers = [
            BatchKVCache(self.padding)
            if kind == "full_attention"
            else BatchRotatingKVCache(config.sliding_window, self.padding)
            for kind in config.layer_types
        ]
        for layer, pair in zip(self.layers, held, strict=True):
            layer.update_and_fetch(*(_left_padded(part, lengths) for part in pair))
            self._trim(layer)

    @property
    def places(self) -> list[int] | None:
        """The position of each row's next token; None where that is `length` in all."""
        return [self.length - count for count in self.padding] if any(self.padding) else None

    def decode_masks(self) -> Masks:
        """Masks for one more token in each row: (B, 1, 1, K) booleans over what the caches hold."""
        found: dict[str, mx.array] = {}
        for kind, layer in zip(self.kinds, self.layers, strict=True):
            if kind not in found:
                window = {"window_size": self.window} if kind == "sliding_attention" else {}
                found[kind] = layer.make_mask(1, **window)
        return Masks(found.get("full_attention"), found.get("sliding_attention"))

    def _trim(self, layer: Any) -> None:
        """Let go of what a sliding layer will never see again; mlx-lm would keep it until the next token."""
        if isinstance(layer, BatchRotatingKVCache) and layer.keys.shape[2] > self.window:
            extra = layer.keys.shape[2] - self.window
            layer.keys, layer.values = (
                mx.contiguous(part[..., extra:, :]) for part in (layer.keys, layer.values)
            )
            layer.left_padding = layer.left_padding - extra
            layer._idx = self.window

    def keep(self, rows: list[int]) -> None:
        """Let all rows but these leave the batch; theirs are numbered anew in this order."""
        index = mx.array(rows)
        self.padding = [self.padding[row] for row in rows]
        for layer in self.layers:
            layer.filter(index)

    def snapshot(self) -> State:
        """What `restore` needs to come back here after more tokens were fed."""
        return self.length, [_copied(vars(layer)) for layer in self.layers]

    def restore(self, state: State) -> None:
        """Forget everything fed since `snapshot` gave `state`; a state can be restored many times."""
        self.length, states = state
        for layer, kept in zip(self.layers, states, strict=True):
            vars(layer).update(_copied(kept))


def _left_padded(part: mx.array, lengths: Sequence[int]) -> mx.array:
    """(B, G, K, E) padded at the end of its rows -> (B, G, longest, E) padded at their beginning."""
    longest = max(lengths)
    if min(lengths) == longest:
        return part[:, :, :longest]
    rows = [
        mx.pad(part[row : row + 1, :, :length], [(0, 0), (0, 0), (longest - length, 0), (0, 0)])
        for row, length in enumerate(lengths)
    ]
    return mx.concatenate(rows)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    # All attributes: what `state` holds differs between mlx-lm's releases (0.31 has `meta_state` beside it).
    # It writes into its arrays in place: a new array object keeps the old content.
    return {name: part[...] if isinstance(part, mx.array) else part for name, part in state.items()}
