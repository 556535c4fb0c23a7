"""What an adapter consists of, layer by layer, and the tensors that it is stored as.

| tensor | shape | there |
|---|---|---|
| `<layer>.lora_a` | (in, r) | always |
| `<layer>.lora_b` | (r, out) | always |
| `<layer>.magnitude` | (out,) | with DoRA |
| `<layer>.lora_bias` | (out,) | with a bias on the update |
| `<layer>.linear.bias`, `<module>.bias` | (out,) | where a bias of the base was trained |
| `...embed_tokens.weight`, `...lm_head.weight` | (V, D) | where whole modules were saved |
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten
from pydantic import Field, model_validator

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.settings import ALL_LINEAR, LoraSettings, scale
from mlx_medlora.settings import StrictModel

Linear = nn.Linear | nn.QuantizedLinear
_TOWER = names.TOWER


class LoraShape(StrictModel):
    """Rank and alpha of one layer."""

    rank: int = Field(gt=0, le=4096)
    alpha: float = Field(gt=0)


class Layout(LoraSettings):
    """The settings of an adapter with every layer that it has; `rank` and `alpha` are the usual ones.

    `modules` maps full layer names to their shapes. `lora_bias` gives the update a bias of its own;
    `biases` are the modules whose own bias was trained, adapted or not.
    """

    modules: dict[str, LoraShape]
    lora_bias: bool = False
    biases: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Layout:
        ranks = {shape.rank for shape in self.modules.values()}
        if ranks and self.rank not in ranks:
            raise ValueError(f"rank is {self.rank}, but its layers have {sorted(ranks)}")
        if self.dora and self.lora_bias:
            raise ValueError("DoRA has no bias on the update")
        if self.target != (ALL_LINEAR,):
            self._named_by_target()
        return self

    def _named_by_target(self) -> None:
        hits = {name: [t for t in self.target if f".{name}".endswith(f".{t}")] for name in self.modules}
        unnamed = [name for name, found in hits.items() if not found]
        if unnamed:
            raise ValueError(f"target does not name {unnamed[0]}")
        idle = set(self.target) - {target for found in hits.values() for target in found}
        if self.modules and idle:
            raise ValueError(f"target {min(idle)!r} names none of its layers")

    def scale_of(self, module: str) -> float:
        """The factor of one layer's low-rank update."""
        shape = self.modules[module]
        return scale(shape.alpha, shape.rank, self.rslora)


def linear_layers(model: Base, *, vision: bool = False) -> dict[str, Linear]:
    """The text stack's linear layers by full name, in the model's order; with `vision` the tower's too."""
    named = dict(model.named_modules())
    stack = next(name for name, module in named.items() if module is model.text)
    places = (_TOWER, f"{stack}.") if vision else (f"{stack}.",)
    return {
        name: module
        for name, module in sorted(named.items(), key=lambda item: _in_order(item[0]))
        if name.startswith(places) and isinstance(module, (nn.Linear, nn.QuantizedLinear))
    }


def _in_order(name: str) -> list[tuple[int, str]]:
    """Sort key with layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def find_targets(model: Base, settings: LoraSettings) -> dict[str, Linear]:
    """The layers that `settings.target` names, by their full names, in the model's order.

    A target is the end of a name, cut at a dot, as in PEFT; `all-linear` is every linear layer, the
    tower's included, and never the head. Raises InputError where a target names no layer.
    """
    linear = _from_layer(
        linear_layers(model, vision=settings.adapts_vision and not model.config.text_only),
        settings.first_layer(model.config.text.num_hidden_layers),
    )
    if settings.target == (ALL_LINEAR,):
        return linear
    found: set[str] = set()
    for target in settings.target:
        hits = [name for name in linear if f".{name}".endswith(f".{target}")]
        if not hits:
            kinds = sorted({name.rpartition(".")[2] for name in linear})
            place = "model" if settings.adapts_vision else "language model"
            raise InputError(
                f"the target {target!r} names no linear layer of the {place}",
                hint=f"Choose among: {', '.join(kinds)}.",
            )
        found.update(hits)
    return {name: linear[name] for name in linear if name in found}


def _from_layer(linear: dict[str, Linear], first: int) -> dict[str, Linear]:
    """Without the language model's layers below `first`; SigLIP's stay."""
    kept = {}
    for name, module in linear.items():
        index = name.rpartition("layers.")[2].partition(".")[0]
        if name.startswith(_TOWER) or int(index) >= first:
            kept[name] = module
    return kept


def resolve(model: Base, settings: LoraSettings) -> Layout:
    """The layout that `settings` give on `model`. Raises InputError as `find_targets`."""
    shape = LoraShape(rank=settings.rank, alpha=settings.alpha)
    fields = settings.model_dump(include=set(LoraSettings.model_fields))
    return Layout(**fields, modules=dict.fromkeys(find_targets(model, settings), shape))


def widths(linear: Linear) -> tuple[int, int]:
    """(in, out) of a layer; a quantised one packs its inputs into words."""
    outputs, inputs = linear.weight.shape
    if isinstance(linear, nn.QuantizedLinear):
        inputs = linear.scales.shape[1] * linear.group_size
    return inputs, outputs


def expected_tensors(model: Base, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of an adapter with `layout` on `model`, which may be untrained.

    Raises InputError naming the layers that `model` does not have.
    """
    linear = linear_layers(model, vision=not model.config.text_only)
    biased = _biases(model)
    odd = [name for name in layout.modules if name not in linear]
    odd += [name for name in layout.biases if name not in biased]
    if odd:
        raise InputError(f"the layers it adapts are not this model's: {', '.join(odd[:4])}")
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in layout.modules.items():
        expected |= layer_tensors(name, *widths(linear[name]), shape.rank, layout)
    for name in layout.biases:
        expected[f"{name}.linear.bias" if name in layout.modules else f"{name}.bias"] = biased[name]
    whole = (model.config.text.vocab_size, model.config.text.hidden_size)
    return expected | {saved_name(kind, model): whole for kind in layout.save_modules}


def layer_tensors(
    name: str, inputs: int, outputs: int, rank: int, layout: Layout
) -> dict[str, tuple[int, ...]]:
    """Name and shape of the tensors that one layer has with `layout`."""
    tensors: dict[str, tuple[int, ...]] = {
        f"{name}.lora_a": (inputs, rank),
        f"{name}.lora_b": (rank, outputs),
    }
    if layout.dora:
        tensors[f"{name}.magnitude"] = (outputs,)
    if layout.lora_bias:
        tensors[f"{name}.lora_bias"] = (outputs,)
    return tensors


def _biases(model: Base) -> dict[str, tuple[int, ...]]:
    """The modules that have a bias, and its shape."""
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return {
        name.removesuffix(".bias"): tuple(array.shape)
        for name, array in parameters.items()
        if name.endswith(".bias")
    }


def saved_name(kind: str, model: Any) -> str:
    """The tensor name of a saved `embed_tokens` or `lm_head`."""
    text_only: bool = model.config.text_only
    module = (
        names.embedding(text_only=text_only) if kind == "embed_tokens" else names.head(text_only=text_only)
    )
    return f"{module}.weight"
