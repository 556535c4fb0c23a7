"""Rotary position tables.

They are computed with numpy in the order of operations of transformers' `Gemma3RotaryEmbedding`:
another order rounds the frequencies differently, which at position 4,000 already moves an angle by
2e-4 and the logits past the tolerance that this toolkit promises.
"""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np

Table = tuple[mx.array, mx.array]


@lru_cache(maxsize=64)
def rotary_table(offset: int, length: int, head_dim: int, theta: float, factor: float) -> Table:
    """Cosines and sines, each (length, head_dim) fp32, for positions offset .. offset + length - 1."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inverse = (np.float32(1.0) / np.power(np.float32(theta), exponent)) / np.float32(factor)
    angles = np.arange(offset, offset + length, dtype=np.float32)[:, None] * inverse[None, :]
    angles = np.concatenate([angles, angles], axis=-1)
    return mx.array(np.cos(angles)), mx.array(np.sin(angles))


def table_at(table: Table, positions: mx.array) -> Table:
    """A table (L, head_dim) at (B, Q) positions: (B, 1, Q, head_dim), the same for every head."""
    cosine, sine = table
    return cosine[positions][:, None], sine[positions][:, None]


def rotate(x: mx.array, table: Table) -> mx.array:
    """Rotate (..., L, head_dim) by a table that broadcasts to it; the halves are the pairs' two members."""
    cosine, sine = (part.astype(x.dtype) for part in table)
    half = x.shape[-1] // 2
    turned = mx.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cosine + turned * sine
