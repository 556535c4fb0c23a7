"""Whole modules that an adapter trains and carries: the embedding, the head, or both.

Gemma's head is its embedding. Once one of the two is trained they part, as in PEFT's `modules_to_save`.
Letters: B rows, L tokens, V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.model import Base


class SavedEmbedding(nn.Embedding):
    """A trained fp32 embedding of its own; what it gives is in the base's dtype."""

    def __init__(self, weight: mx.array, dtype: mx.Dtype) -> None:
        super().__init__(1, 1)
        self.weight = own_copy(weight)  # (V, D)
        self.dtype = dtype

    def __call__(self, input_ids: mx.array) -> mx.array:
        """(B, L) ids -> (B, L, D)."""
        return self.weight[input_ids].astype(self.dtype)

    def as_linear(self, hidden: mx.array) -> mx.array:
        """(..., D) -> (..., V)."""
        return hidden @ self.weight.astype(hidden.dtype).T


class SavedHead(nn.Module):
    """A trained fp32 head of its own; what it gives is in the base's dtype."""

    def __init__(self, weight: mx.array) -> None:
        super().__init__()
        self.weight = own_copy(weight)  # (V, D)

    def __call__(self, hidden: mx.array) -> mx.array:
        """(..., D) -> (..., V)."""
        return hidden @ self.weight.astype(hidden.dtype).T


class BaseHead(nn.Module):
    """The base's embedding as the head, beside another embedding."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.embedding = embedding

    def __call__(self, hidden: mx.array) -> mx.array:
        """(..., D) -> (..., V)."""
        return self.embedding.as_linear(hidden)


def save_modules(model: Base, kinds: Sequence[str]) -> None:
    """Put trainable copies in the place of the modules named, in place; copies begin as the base's."""
    own = model.text.embed_tokens
    head = getattr(model.speaker, "lm_head", None)
    if "lm_head" in kinds:
        model.speaker.lm_head = SavedHead(matrix(own if head is None else head))
    if "embed_tokens" in kinds:
        model.text.embed_tokens = SavedEmbedding(matrix(own), model.dtype)
        if "lm_head" not in kinds and head is None:
            kept = BaseHead(own)
            kept.freeze()
            model.speaker.lm_head = kept


def own_copy(weight: mx.array) -> mx.array:
    """The values of `weight` in fp32, in an array of its own.

    `astype` would give an fp32 base's own array: trained and frozen at once, which a compiled step refuses.
    """
    return mx.array(weight, mx.float32)


def matrix(module: nn.Module) -> mx.array:
    """The (V, D) matrix of an embedding or head, dequantised where it is packed."""
    if "scales" not in module:
        return module.weight
    return mx.dequantize(module.weight, module.scales, module.biases, module.group_size, module.bits)
