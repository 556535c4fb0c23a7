"""Gemma's RMSNorm."""

from __future__ import annotations

import mlx.core as mx
from mlx import nn


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), computed in fp32 and returned in x's dtype.

    Source: transformers' `Gemma3RMSNorm`: the product is taken before the cast, unlike Llama's.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = mx.zeros((width,))
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        """(..., width) -> (..., width)."""
        gain = 1.0 + self.weight.astype(mx.float32)
        return mx.fast.rms_norm(x, gain, self.eps).astype(x.dtype)
