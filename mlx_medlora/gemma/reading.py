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
from mlx_medlora.gemma.sharing import Ids, Prompt, stems

NOTHING: Ids = np.array([], np.int32)


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

    @property
    def held(self) -> list[tuple[mx.array, mx.array]]:
        """Each layer's keys and values, (B, G, K, E), of all that the rows have read."""
        return [layer.held for layer in self.layers if layer.held is not None]

    def trunk(self) -> Trunk:
        """The same, for other rows to continue."""
        return Trunk(self.length, [keys for keys, _ in self.held], [values for _, values in self.held])


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


def read_header(model: Base, ids: Ids) -> Trunk:
    """Read the tokens (P,) that all prompts begin with, for `read_prompts` to go on from."""
    last = np.array([[len(ids) - 1]], np.int32)
    trunk = read(model, [ids], None, last)[1].trunk()
    mx.eval(trunk.keys, trunk.values)
    return trunk


def read_prompts(
    model: Base,
    prompts: Sequence[Prompt],
    header: Trunk | None = None,
    stem: int = 0,
    behind: Ids = NOTHING,
) -> tuple[mx.array, Branches]:
    """Read prompts, each with the tokens `behind` after it.

    Returns hidden states (B, 1 + len(behind), D), from a prompt's last token on, and what was read.
    `header` holds the first tokens of every prompt, read before. Prompts that agree in their first `stem`
    tokens and in their images read those once; see `sharing.plan`.
    Raises ValueError for an empty batch or an empty prompt.
    """
    if not prompts or not all(len(prompt.ids) for prompt in prompts):
        raise ValueError("every prompt needs at least one token, and a batch at least one prompt")
    trunk = _read_stems(model, prompts, header, stem) if stem else header
    start = 0 if trunk is None else trunk.length
    rows = [np.concatenate([prompt.ids[start:], behind]) for prompt in prompts]
    last = [len(prompt.ids) - start - 1 for prompt in prompts]
    wanted = np.array([range(place, place + len(behind) + 1) for place in last], np.int32)  # (B, Q)
    return read(model, rows, None if stem else _features(prompts), wanted, trunk)


def _read_stems(model: Base, prompts: Sequence[Prompt], header: Trunk | None, stem: int) -> Trunk:
    """Each distinct stem read once; a beginning for each prompt."""
    first, of = stems(prompts, stem)
    shown = [prompts[row] for row in first]
    start = 0 if header is None else header.length
    last = np.full((len(shown), 1), stem - start - 1, np.int32)
    rows = [prompt.ids[start:stem] for prompt in shown]
    return read(model, rows, _features(shown), last, header)[1].trunk().take(of)


def _features(prompts: Sequence[Prompt]) -> mx.array | None:
    shown = [prompt.features for prompt in prompts if prompt.features is not None]
    return mx.concatenate(shown) if shown else None
