"""LoRA over the linear layers of the language model.

Letters: `in` and `out` are a layer's widths, r the rank. Source: arXiv 2106.09685; start values as PEFT's.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.settings import LoraSettings

Linear = nn.Linear | nn.QuantizedLinear


class LoraLinear(nn.Module):
    """A frozen linear layer, quantised or not, and a trained low-rank update beside it.

    `lora_a` (in, r) begins uniform within 1 / sqrt(in), `lora_b` (r, out) at zero, so the layer begins as
    the base's. Both are fp32 and cast to the input's dtype where they are used.
    """

    def __init__(self, linear: Linear, settings: LoraSettings, key: mx.array) -> None:
        super().__init__()
        inputs, outputs = widths(linear)
        bound = inputs**-0.5
        self.linear = linear
        self.dropout = nn.Dropout(settings.dropout)
        self.scale = settings.scale
        self.lora_a = mx.random.uniform(-bound, bound, (inputs, settings.rank), key=key)
        self.lora_b = mx.zeros((settings.rank, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        low = self.dropout(x) @ self.lora_a.astype(x.dtype)  # (..., r)
        return self.linear(x) + self.scale * (low @ self.lora_b.astype(x.dtype))


def widths(linear: Linear) -> tuple[int, int]:
    """(in, out) of a layer; a quantised one packs its inputs into words."""
    outputs, inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        inputs = linear.scales.shape[1] * linear.group_size
    return inputs, outputs


def find_targets(model: Base, settings: LoraSettings) -> dict[str, Linear]:
    """The layers that `settings.target` names, by their full names, in the model's order.

    A target is the end of a name, cut at a dot, as in PEFT; only the language model is searched.
    Raises InputError where the model carries an adapter already or a target names no layer.
    """
    if any(isinstance(module, LoraLinear) for module in model.modules()):
        raise InputError("this model carries an adapter already", hint="Load the base again without it.")
    linear = _linear_layers(model)
    found: dict[str, Linear] = {}
    for target in settings.target:
        hits = [name for name in linear if f".{name}".endswith(f".{target}")]
        if not hits:
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            raise InputError(
                f"the target {target!r} names no linear layer of the language model",
                hint=f"Choose among: {', '.join(kinds)}.",
            )
        found.update({name: linear[name] for name in hits})
    return {name: found[name] for name in linear if name in found}


def _linear_layers(model: Base) -> dict[str, Linear]:
    named = dict(model.named_modules())
    stack = next(name for name, module in named.items() if module is model.text)
    return {
        name: module
        for name, module in sorted(named.items(), key=lambda item: _in_order(item[0]))
        if name.startswith(f"{stack}.") and isinstance(module, (nn.Linear, nn.QuantizedLinear))
    }


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort key with layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def attach(model: Base, settings: LoraSettings, *, seed: int = 0) -> list[str]:
    """Freeze `model` and put LoRA on the target layers, in place; return the names of those layers.

    The same seed gives the same start values. Raises InputError as `find_targets`.
    """
    targets = find_targets(model, settings)
    model.freeze()
    keys = mx.random.split(mx.random.key(seed), len(targets))
    adapted = [
        (name, LoraLinear(linear, settings, key))
        for (name, linear), key in zip(targets.items(), keys, strict=True)
    ]
    model.update_modules(tree_unflatten(adapted))
    model.train(model.training)  # new modules begin in training mode: an answering model must not drop out
    mx.eval(model.trainable_parameters())
    return list(targets)
