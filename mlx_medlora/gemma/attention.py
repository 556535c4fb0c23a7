"""Scaled dot-product attention: MLX's fused kernel, or on the CPU backend a composition that is quick there.

Letters: B rows, H heads, G key/value heads, L queries, K keys, E = head_dim.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_medlora.gemma.elementwise import softmax
from mlx_medlora.gemma.masks import Mask
from mlx_medlora.gemma.recompute import recomputed

_KEPT = 1 << 21  # attention scores of a layer that are kept for its backward pass: 8 MiB in fp32
_SCORES = 1 << 22  # attention scores in one piece: 16 MiB in fp32, near what the caches hold


def attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: Mask = None) -> mx.array:
    """q (B, H, L, E), k and v (B, G, K, E) -> (B, H, L, E).

    `mask` is boolean and broadcasts to (B, 1, L, K), True = may attend; "causal"; or None. MLX has no fused
    kernel for the CPU, and its fallback holds all L x K scores several times over.
    """
    if q.dtype != mx.float32 or mx.default_device() != mx.Device(mx.cpu):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    rows, heads, length, _ = q.shape
    keys = k.shape[2]
    if isinstance(mask, str):
        mask = mx.arange(length)[:, None] + (keys - length) >= mx.arange(keys)[None]
    piece = max(1, _SCORES // (rows * heads * keys))
    if piece >= length:
        return _piece(q, k, v, scale, mask)
    parts: list[mx.array] = []
    for start in range(0, length, piece):
        end = min(length, start + piece)
        seen = mask if mask is None or mask.shape[-2] == 1 else mask[..., start:end, :]
        one = q[:, :, start:end]
        if parts:  # one after the other: MLX would hold the scores of all at once
            one = mx.depends(one, parts[-1])
        parts.append(_piece(one, k, v, scale, seen))
    return mx.concatenate(parts, axis=2)


def _piece(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """Attention; many scores, L x K a head, are computed again in the backward pass instead of kept."""
    if q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] <= _KEPT:
        return _attend(q, k, v, scale, mask)
    return recomputed(lambda q, k, v: (_attend(q, k, v, scale, mask),))(q, k, v)[0]


def _attend(q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None) -> mx.array:
    """The heads of a group share its keys: they stand in one product."""
    rows, heads, length, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    q = (q * scale).reshape(rows, groups, -1, width)  # (B, G, H / G * L, E)
    scores = (q @ k.swapaxes(-1, -2)).reshape(rows, heads, length, keys)
    if mask is not None:
        scores = mx.where(mask, scores, -mx.inf)
    shares = softmax(scores).reshape(rows, groups, -1, keys)
    return (shares @ v).reshape(rows, heads, length, width)
