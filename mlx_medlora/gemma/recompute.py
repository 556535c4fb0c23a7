"""Computing again in the backward pass what would take too much memory to keep.

`mx.checkpoint` also keeps the results of what it wraps until then; here only the inputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten, tree_unflatten

Arrays = tuple[mx.array, ...]


def recomputed(function: Callable[..., Arrays]) -> Callable[..., Arrays]:
    """`function` of arrays, which gives a tuple of arrays, with a gradient that calls it a second time.

    The gradient of the first argument waits for those of the others, so that what was computed again is free
    before the layer below begins: MLX may put parameters' gradients off to the end, and hold all they need.
    Arrays that it closes over are constants: no gradient reaches them.
    """
    custom = mx.custom_function(function)

    @custom.vjp
    def _backward(inputs: Any, cotangents: Any, outputs: Any) -> Any:
        given = list(inputs) if isinstance(inputs, (tuple, list)) else [inputs]
        above = list(cotangents) if isinstance(cotangents, (tuple, list)) else [cotangents]
        held = mx.depends(given, above)  # not before the gradient arrives
        _, found = mx.vjp(lambda *arrays: list(function(*arrays)), held, above)
        if len(found) > 1:
            found = [*mx.depends(found[:1], found[1:]), *found[1:]]
        return tuple(found) if len(found) > 1 else found[0]

    return cast("Callable[..., Arrays]", custom)


def recomputed_in(module: nn.Module, function: Callable[[mx.array], Arrays], x: mx.array) -> Arrays:
    """`function(x)`, recomputed, where it reads trained parameters of `module`: they get gradients too."""
    trained: dict[str, mx.array] = dict(tree_flatten(module.trainable_parameters()))

    def explicit(x: mx.array, *values: mx.array) -> Arrays:
        module.update(tree_unflatten(list(zip(trained, values, strict=True))))
        try:
            return function(x)
        finally:
            module.update(tree_unflatten(list(trained.items())))

    return recomputed(explicit)(x, *trained.values())
