"""Reading rows of tokens that may continue what was read before.

Letters: B rows, L tokens, Q wanted positions, D width, N beginnings, G key/value heads, P their length,
E = head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.cache import Cache
from mlx_medlora.gemma.masks import make_masks
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.sharing import Ids


@dataclass
class Trunk:
    """Keys and values, (N, G, P, E) for each layer, of N beginnings of P tokens that rows continue."""

    length: int
    keys: list[mx.array] = field(default_factory=list)
    values: list[mx.array] = field(default_factory=list)

    def take(self, index: Sequence[int]) -> Trunk:
        """The beginnings of these numbers, one for each row."""
        chosen = mx.array(list(index))
        return Trunk(self.length, [k[chosen] for k in self.keys], [v[chosen] for v in self.values])


class _Branch:
    """One layer's keys and values: the trunk's, then the row's own."""

    def __init__(self, trunk: tuple[mx.array, mx.array] | None) -> None:
        self.trunk = trunk
        self.held: tuple[mx.array, mx.array] | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """(B, G, L, E) of the new tokens -> (B, G, P + L, E)."""
        if self.trunk is not None:
            keys, values = (
                mx.concatenate([mx.broadcast_to(old, (new.shape[0], *old.shape[1:])), new], axis=2)
                for old, new in zip(self.trunk, (keys, values), strict=True)
            )
        self.held = keys, values
        return keys, values


class Branches(Cache):
    """A cache of rows that continue a trunk of one beginning, or of one for each row; it takes one piece."""

    def __init__(self, trunk: Trunk | None, layers: int) -> None:
        self.length = 0 if trunk is None else trunk.length
        held = [None] * layers if trunk is None else zip(trunk.keys, trunk.values, strict=True)
        self.layers: list[_Branch] = [_Branch(pair) for pair in held]

    def trunk(self) -> Trunk:
        """All that the rows have read, for others to continue."""
        held = [layer.held for layer in self.layers if layer.held is not None]
        return Trunk(self.length, [keys for keys, _ in held], [values for _, values in held])


def read(
    model: Base, rows: Sequence[Ids], features: mx.array | None, wanted: Ids, trunk: Trunk | None = None
) -> tuple[mx.array, Branches]:
    """Read `rows`, which need not be equally long, on from `trunk`, whose image blocks are complete.

    features (N * T, D) of the images in `rows`, in reading order; wanted (B, Q): positions within a row.
    Returns the hidden states there, (B, Q, D), and what was read. A row's end is padded: causality keeps
    padding out of sight, and positions are those of the row alone.
    """
    length = max(len(row) for row in rows)
    pad = model.config.pad_token_id
    ids = np.stack([np.pad(row, (0, length - len(row)), constant_values=pad) for row in rows])  # (B, L)
    cache = Branches(trunk, model.config.text.num_hidden_layers)
    masks = make_masks(length, model.config.text.sliding_window, None, _types(model, ids), cache.length)
    return model.text(model.embed(mx.array(ids), features), masks, cache, mx.array(wanted)), cache


def _types(model: Base, ids: Ids) -> mx.array | None:
    """Token types: (B, L); (1, L) where images stand at one place in all rows; None without images."""
    soft = (ids == model.config.image_token_id).astype(np.int32)
    if not soft.any():
        return None
    return mx.array(soft[:1] if (soft == soft[:1]).all() else soft)
