"""LoRA and DoRA over linear layers, quantised or not.

Letters: `in` and `out` are a layer's widths, r the rank, s the scale. Sources: arXiv 2106.09685 (LoRA),
2402.09353 (DoRA); start values and the order of operations as PEFT's.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_unflatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.dropout import RowDropout
from mlx_medlora.lora.layout import Layout, Linear, expected_tensors, linear_layers, resolve, widths
from mlx_medlora.lora.saved import SavedEmbedding, SavedHead, save_modules
from mlx_medlora.lora.settings import LoraSettings

__all__ = ["LoraLinear", "attach", "bind"]


class LoraLinear(nn.Module):
    """A frozen linear layer and a trained low-rank update beside it.

    `lora_a` (in, r) begins uniform within 1 / sqrt(in), `lora_b` (r, out) at zero, so the layer begins as
    the base's. With DoRA `magnitude` (out,) begins as the norms of the base's rows. All are fp32 and cast
    to the input's dtype where they are used.
    """

    def __init__(
        self, linear: Linear, rank: int, scale: float, dropout: float, key: mx.array, dora: bool = False
    ) -> None:
        super().__init__()
        inputs, outputs = widths(linear)
        bound = inputs**-0.5
        self.linear = linear
        self.dropout = RowDropout(dropout)
        self.scale = scale
        self.lora_a = mx.random.uniform(-bound, bound, (inputs, rank), key=key)
        self.lora_b = mx.zeros((rank, outputs))
        if dora:
            self.magnitude = mx.linalg.norm(matrix(linear), axis=1)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        y = self.linear(x)
        dropped = self.dropout(x) if self.training else x
        update = self.scale * ((dropped @ self.lora_a.astype(x.dtype)) @ self.lora_b.astype(x.dtype))
        if "lora_bias" in self:
            update = update + (self.scale * self.lora_bias).astype(x.dtype)
        if "magnitude" not in self:
            return y + update
        factor = (self.magnitude / self._norms()).astype(x.dtype)  # (out,)
        plain = y if dropped is x else self.linear(dropped)
        if "bias" in self.linear:
            plain = plain - self.linear.bias
        return y + (factor - 1) * plain + factor * update

    def _norms(self) -> mx.array:
        """(out,) norms of the adapted matrix's rows; no gradient passes through them, as in the paper."""
        return mx.stop_gradient(
            mx.linalg.norm(matrix(self.linear) + self.scale * (self.lora_a @ self.lora_b).T, axis=1)
        )


def matrix(linear: Linear) -> mx.array:
    """The layer's (out, in) matrix in fp32, dequantised where it is packed."""
    if not isinstance(linear, nn.QuantizedLinear):
        return linear.weight.astype(mx.float32)
    packed = (linear.weight, linear.scales, linear.biases)
    return mx.dequantize(*packed, linear.group_size, linear.bits).astype(mx.float32)


def attach(model: Base, settings: LoraSettings, *, seed: int = 0) -> list[str]:
    """Freeze `model` and put fresh LoRA on the layers that `settings` name, in place; return their names.

    The same seed gives the same start values. Raises InputError where a target names no layer or the
    model carries an adapter already.
    """
    _refuse_second(model)
    return bind(model, resolve(model, settings), seed=seed)


def bind(model: Base, layout: Layout, *, seed: int = 0) -> list[str]:
    """Freeze `model` and give it the parts of `layout`, in place; return the names of the adapted layers.

    The values are fresh ones, for training or for a file to replace. Raises InputError where `layout`
    names what the model does not have, or the model carries an adapter already.
    """
    _refuse_second(model)
    expected_tensors(model, layout)
    linear = linear_layers(model, vision=not model.config.text_only)
    model.freeze()
    keys = mx.random.split(mx.random.key(seed), max(1, len(layout.modules)))
    adapted = [
        (name, _layer(linear[name], layout, name, key))
        for name, key in zip(layout.modules, keys, strict=False)
    ]
    model.update_modules(tree_unflatten(adapted))
    save_modules(model, layout.save_modules)
    _unfreeze_biases(model, layout)
    model.train(model.training)  # new modules begin in training mode: an answering model must not drop out
    mx.eval(model.trainable_parameters())
    return list(layout.modules)


def _layer(linear: Linear, layout: Layout, name: str, key: mx.array) -> LoraLinear:
    rank = layout.modules[name].rank
    layer = LoraLinear(linear, rank, layout.scale_of(name), layout.dropout, key, layout.dora)
    if layout.lora_bias:
        layer.lora_bias = mx.zeros((widths(linear)[1],))
    return layer


def _unfreeze_biases(model: Base, layout: Layout) -> None:
    named = dict(model.named_modules())
    for name in layout.biases:
        module = named[f"{name}.linear"] if name in layout.modules else named[name]
        module.bias = module.bias.astype(mx.float32)
        module.unfreeze(recurse=False, keys=["bias"])


def _refuse_second(model: Base) -> None:
    if any(isinstance(module, (LoraLinear, SavedEmbedding, SavedHead)) for module in model.modules()):
        raise InputError("this model carries an adapter already", hint="Load the base again without it.")
