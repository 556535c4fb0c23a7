"""Where two forwards part: hidden states of every layer on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.results import FLOOR, Array, distance
from mlx_medlora.parity.sides import Sides

States = dict[str, Array]


def first_parting(sides: Sides) -> str | None:
    """The first layer whose output differs by more than 1e-5 of its largest, on the row with most images."""
    row = max(sides.rows, key=lambda one: (len(one.images), -len(one.ids)))
    batch = sides.batch([row])
    mine, theirs = _ours(sides, batch), _theirs(sides, batch)
    for name, wanted in theirs.items():
        gap = distance(mine[name].reshape(wanted.shape), wanted) if name in mine else float("inf")
        if gap > 2 * FLOOR:
            return f"{name} (differs by {gap:.1e} of its largest)"
    return None


class _Tap(nn.Module):
    """A layer that remembers what it gave."""

    def __init__(self, layer: Any, name: str, states: States) -> None:
        super().__init__()
        self.inner, self._name, self._states = layer, name, states

    def __call__(self, *args: Any, **more: Any) -> mx.array:
        found: mx.array = self.inner(*args, **more)
        self._states[self._name] = np.array(found.astype(mx.float32))
        return found


@contextmanager
def _tapped(stack: Any, place: str, states: States) -> Iterator[None]:
    layers = stack.layers
    stack.layers = [_Tap(layer, f"{place} layer {index}", states) for index, layer in enumerate(layers)]
    try:
        yield
    finally:
        stack.layers = layers


def _ours(sides: Sides, batch: Any) -> States:
    states: States = {}
    model, given = sides.base, None
    if "pixel_values" in batch and isinstance(model, Gemma3):
        with _tapped(model.vision_tower.vision_model.encoder, "vision", states):
            given = ours.features(model, batch["pixel_values"])
        states["projector"] = given
    with _tapped(model.text, "text", states):
        states["logits"] = ours.logits(model, batch, given)
    return states


def _theirs(sides: Sides, batch: Any) -> States:
    states: States = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            states[name] = first.detach().float().numpy()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in _places(sides.reference)]
    try:
        logits = reference.logits(sides.reference, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return states | {"logits": logits}


def _places(model: Any) -> Iterator[tuple[str, Any]]:
    """Transformers' layers by the names used here, in the order that they run."""
    for name, module in model.named_modules():
        stem, _, index = name.rpartition(".layers.")
        if stem and index.isdigit():
            yield f"{'vision' if 'vision_tower' in stem else 'text'} layer {index}", module
        elif name.endswith("multi_modal_projector"):
            yield "projector", module
