"""Writing what `PeftModel.from_pretrained` loads, on today's transformers or on releases before 4.52."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mlx_medlora.files import write_json
from mlx_medlora.gemma import names
from mlx_medlora.lora.adapter import CONFIG, Adapter
from mlx_medlora.lora.layout import Layout
from mlx_medlora.lora.peft import WEIGHTS
from mlx_medlora.lora.peft_keys import Kind, file_key

_KINDS: tuple[Kind, ...] = ("lora_a", "lora_b", "magnitude", "lora_bias")
_LAYER = re.compile(r"(?P<stack>.*)\.layers\.(?P<index>\d+)\.(?P<leaf>.+)")


def write_peft(directory: Path, adapter: Adapter, *, before_4_52: bool = False) -> None:
    """Write `adapter` in PEFT's form into `directory`, which must exist.

    `before_4_52` uses the names of transformers 4.50 and 4.51. SigLIP's layers get their names with
    `vision_model`, which every release from 4.52 to 5.23 reads.
    """
    tensors = {}
    for name, values in adapter.tensors.items():
        turned = values.T if name.endswith((".lora_a", ".lora_b")) else values
        key = _key(name, adapter.config, before_4_52=before_4_52)
        tensors[key] = np.ascontiguousarray(turned, np.float32)
    save_file(tensors, str(directory / WEIGHTS), metadata={"format": "pt"})
    write_json(directory / CONFIG, peft_settings(adapter))


def _key(name: str, layout: Layout, *, before_4_52: bool) -> str:
    module, _, part = name.rpartition(".")
    for kind in _KINDS:
        if part == kind:
            return file_key(module, kind, before_4_52=before_4_52)
    if part == "bias":
        adapted = module.endswith(".linear") and module.removesuffix(".linear") in layout.modules
        own = module.removesuffix(".linear") if adapted else module
        return file_key(own, "bias", before_4_52=before_4_52, adapted=adapted)
    return file_key(module, "whole", before_4_52=before_4_52)


def peft_settings(adapter: Adapter) -> dict[str, Any]:
    """The `adapter_config.json` of `adapter` in PEFT's words."""
    layout = adapter.config
    ranks = {name: shape.rank for name, shape in layout.modules.items()}
    alphas = {name: shape.alpha for name, shape in layout.modules.items()}
    rank, alpha = _usual(ranks), _usual(alphas)
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": layout.base.id,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "lora_dropout": layout.dropout,
        "target_modules": target_pattern(list(layout.modules)),
        "rank_pattern": {_exactly(name): one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {_exactly(name): _plain(one) for name, one in alphas.items() if one != alpha},
        "use_rslora": layout.rslora,
        "use_dora": layout.dora,
        "lora_bias": layout.lora_bias,
        "bias": "all" if layout.biases else "none",
        "modules_to_save": list(layout.save_modules) or None,
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "revision": None,
    }


def _usual(values: dict[str, Any]) -> Any:
    return Counter(values.values()).most_common(1)[0][0]


def _plain(alpha: float) -> float | int:
    return int(alpha) if alpha == int(alpha) else alpha


def target_pattern(modules: list[str]) -> str:
    """A regular expression for exactly `modules` under every generation's names.

    A list of names such as q_proj would also hit SigLIP's layers; this never does unless they are meant.
    """
    leaves: dict[tuple[str, str], list[int]] = {}
    for module in modules:
        found = _LAYER.fullmatch(module)
        assert found is not None, module
        leaves.setdefault((_stack(found["stack"]), found["leaf"]), []).append(int(found["index"]))
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (stack, leaf), indices in leaves.items():
        groups.setdefault((stack, tuple(sorted(indices))), []).append(leaf)
    parts = [
        rf"{stack}layers\.({_either(map(str, indices))})\.({_either(map(re.escape, sorted(found)))})"
        for (stack, indices), found in groups.items()
    ]
    return parts[0] if len(parts) == 1 else f"({_either(parts)})"


def _either(parts: Any) -> str:
    return "|".join(parts)


def _stack(place: str) -> str:
    """The pattern for the names of one stack, whatever stands between its words."""
    if place.startswith(names.TEXT.rstrip(".")):
        return r".*language_model\.(.*\.)?"
    return r".*vision_tower\.(.*\.)?" if place.startswith("vision_tower") else r"model\."


def _exactly(module: str) -> str:
    return target_pattern([module])
