"""AdamW as torch computes it, and the clipping of gradients as torch does it."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx.optimizers import AdamW
from mlx.utils import tree_flatten, tree_map

Gradients = dict[str, Any]  # a tree of arrays, shaped as the trainable parameters


def adamw(weight_decay: float) -> AdamW:
    """The optimiser, its rate still to be set before each update."""
    return AdamW(0.0, betas=[0.9, 0.999], eps=1e-8, weight_decay=weight_decay, bias_correction=True)


def add(left: Gradients | None, right: Gradients) -> Gradients:
    """Sum of two trees of gradients; None counts as zero."""
    return right if left is None else tree_map(mx.add, left, right)


def scale(gradients: Gradients, factor: float | mx.array) -> Gradients:
    """Every gradient times `factor`."""
    return tree_map(lambda gradient: gradient * factor, gradients)


def clip(gradients: Gradients, largest: float) -> tuple[Gradients, mx.array]:
    """Scale all gradients down to a global norm of `largest` (0: never); return them and the norm before.

    Source: torch's `clip_grad_norm_`: the factor is largest / (norm + 1e-6), and at most 1.
    """
    leaves: dict[str, mx.array] = dict(tree_flatten(gradients))
    squares = [mx.square(gradient.astype(mx.float32)).sum() for gradient in leaves.values()]
    norm = mx.sqrt(mx.stack(squares).sum())
    if largest == 0:
        return gradients, norm
    return scale(gradients, mx.minimum(largest / (norm + 1e-6), 1.0)), norm
