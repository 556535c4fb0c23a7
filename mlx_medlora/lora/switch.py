"""A model with its adapter put aside for a while: the base, without loading it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlx.utils import tree_flatten, tree_unflatten

from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.layers import LoraLinear

_OWN = ("lora_a", "lora_b", "lora_bias", "magnitude")


def can_switch(model: Base) -> bool:
    """True where all that is adapted lies beside the base: no whole module or bias of it was replaced."""
    named: dict[str, object] = dict(tree_flatten(model.trainable_parameters()))
    return all(name.rsplit(".", 1)[-1] in _OWN for name in named)


@contextmanager
def adapter_off(model: Base) -> Iterator[None]:
    """Within, `model` is its base, bit for bit. Raises ValueError where the adapter replaced parts of it."""
    if not can_switch(model):
        raise ValueError("the adapter carries whole modules or biases: the base's are gone")
    adapted = [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLinear)]
    model.update_modules(tree_unflatten([(name, part.linear) for name, part in adapted]))
    try:
        yield
    finally:
        model.update_modules(tree_unflatten(adapted))
