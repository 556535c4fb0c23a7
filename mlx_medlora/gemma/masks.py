"""Attention masks for rows that mix text with images.

Source: transformers >= 5.13, `modeling_gemma3.py`, `create_masks_for_vision_model`. Global layers see
what is causal or in the same image block; sliding layers see the same, but no key further back than
the window. Padding is never a key. One image never sees a later one.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

Mask = mx.array | str | None


@dataclass(frozen=True)
class Masks:
    """One mask for each kind of layer: boolean (B, 1, L, K) with True = may attend, or "causal"."""

    full_attention: Mask
    sliding_attention: Mask


def image_blocks(token_type_ids: mx.array) -> mx.array:
    """Number each run of soft tokens in its row from 1; 0 elsewhere. (B, L) -> (B, L) int32."""
    soft = (token_type_ids == 1).astype(mx.int32)
    before = mx.pad(soft, [(0, 0), (1, 0)])[:, :-1]
    return mx.cumsum(soft * (1 - before), axis=1) * soft


def make_masks(
    length: int,
    window: int,
    attention_mask: mx.array | None = None,
    token_type_ids: mx.array | None = None,
    before: int = 0,
) -> Masks:
    """Masks for a prefill or training forward of `length` tokens, which may continue `before` others.

    attention_mask (B, L): 1 = token, 0 = padding, on either side. token_type_ids (B, L): 1 = image
    soft token; None where no row has an image. Both are of the new tokens alone: those before are never
    padding, and no image block reaches across. The masks are (B, 1, L, before + L).
    """
    if attention_mask is None and token_type_ids is None and not before and length <= window:
        return Masks("causal", "causal")
    query, key = mx.arange(before, before + length)[:, None], mx.arange(before + length)[None, :]
    seen = (key <= query)[None]  # (1, L, K)
    if token_type_ids is not None:
        block = image_blocks(token_type_ids)
        same = (block[:, :, None] == block[:, None, :]) & (block[:, :, None] > 0)
        seen = seen | mx.pad(same, [(0, 0), (0, 0), (before, 0)])
    near = seen & (key > query - window)
    if before and attention_mask is not None:
        attention_mask = mx.pad(attention_mask.astype(mx.bool_), [(0, 0), (before, 0)], constant_values=True)
    return Masks(_without_padding(seen, attention_mask), _without_padding(near, attention_mask))


def _without_padding(seen: mx.array, attention_mask: mx.array | None) -> mx.array:
    """Drop padded keys; each position keeps itself, since a row that sees nothing would be NaN."""
    if attention_mask is not None:
        length, keys = seen.shape[-2:]
        itself = mx.eye(length, keys, k=keys - length, dtype=mx.bool_)[None]
        seen = (seen & attention_mask.astype(mx.bool_)[:, None, :]) | itself
    return seen[:, None]


def mask_at(mask: Mask, positions: mx.array, length: int) -> Mask:
    """A mask of `length` queries at (B, Q) positions: (B, 1, Q, K)."""
    if isinstance(mask, str):  # "causal"
        return (mx.arange(length) <= positions[..., None])[:, None]
    if mask is None:
        return None
    whole = mx.broadcast_to(mask, (positions.shape[0], *mask.shape[1:]))
    return mx.take_along_axis(whole, positions[:, None, :, None], axis=2)
