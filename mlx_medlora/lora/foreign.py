"""Adapters of mlx-lm and mlx-vlm.

Their conventions differ: mlx-lm, and mlx-vlm of today, write `lora_parameters` with the scale itself;
mlx-vlm before wrote `rank` and `alpha`, tensors `A` and `B`, and scaled by alpha / rank.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from pydantic import Field

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.lora.adapter import CONFIG, WEIGHTS, Adapter, AdapterConfig, base_called, refuse
from mlx_medlora.lora.layout import Layout, expected_tensors, linear_layers
from mlx_medlora.lora.peft_keys import module_here
from mlx_medlora.settings import StrictModel, validate

_ENDINGS = {"lora_a": "lora_a", "lora_b": "lora_b", "A": "lora_a", "B": "lora_b", "m": "magnitude"}


class Convention(StrictModel):
    """How an adapter was written, and what it says of itself; `model` as it stands there, id or path."""

    writer: Literal["mlx-lm", "mlx-vlm"]
    rank: int = Field(gt=0, le=4096)
    scale: float = Field(gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    dora: bool = False
    model: str = "unknown"


def convention(directory: Path) -> Convention:
    """Tell the writer from `adapter_config.json`. Raises InputError where it is none of the two's."""
    path = directory / CONFIG
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected a JSON object", path=path, line=1)
    kind = raw.get("fine_tune_type", "lora")
    if kind not in ("lora", "dora"):
        raise InputError(f"fine_tune_type is {kind!r}; only lora and dora are adapters", path=path)
    parameters = raw.get("lora_parameters")
    if isinstance(parameters, dict):
        fields = {key: parameters[key] for key in ("rank", "scale", "dropout") if key in parameters}
        fields |= {"writer": "mlx-lm", "dora": kind == "dora", "model": _named(raw)}
        return validate(Convention, fields, path=path)
    if "rank" in raw and "alpha" in raw:
        return _older(raw, path)
    raise InputError(
        "neither this toolkit's, PEFT's, mlx-lm's nor mlx-vlm's settings",
        path=path,
        hint="An adapter directory holds adapter_config.json as its trainer wrote it.",
    )


def _named(raw: dict[str, Any]) -> Any:
    return raw.get("model") or raw.get("model_path") or "unknown"


def _older(raw: dict[str, Any], path: Path) -> Convention:
    rank, alpha = raw["rank"], raw["alpha"]
    if not isinstance(rank, int) or not isinstance(alpha, (int, float)) or rank < 1:
        raise InputError(f"rank {rank!r} and alpha {alpha!r} are no numbers to scale by", path=path)
    fields = {"writer": "mlx-vlm", "rank": rank, "scale": alpha / rank, "dropout": raw.get("dropout", 0.0)}
    fields["model"] = _named(raw)
    return validate(Convention, fields, path=path)


def read_foreign(directory: Path, model: Base) -> Adapter:
    """Read an adapter of mlx-lm or mlx-vlm for `model`, which gives names and shapes and is not touched.

    Raises InputError for tensors that bind to nothing and wrong shapes, ranks and values.
    """
    written, path = convention(directory), directory / WEIGHTS
    header, _ = read_header(path)
    linear = linear_layers(model, vision=not model.config.text_only)
    ours: dict[str, str] = {}
    unknown: list[str] = []
    for name in header:
        module, _, ending = name.rpartition(".")
        here = module_here(module, text_only=model.config.text_only)
        if here in linear and ending in _ENDINGS:
            ours[f"{here}.{_ENDINGS[ending]}"] = name
        else:
            unknown.append(name)
    refuse(path, "of no layer of this model", unknown)
    layout = _layout(written, ours, path)
    return Adapter(
        AdapterConfig(**layout.model_dump(), base=base_called(written.model)),
        _tensors(path, ours, expected_tensors(model, layout)),
    )


def _layout(written: Convention, ours: dict[str, str], path: Path) -> Layout:
    modules = sorted({name.rpartition(".")[0] for name in ours})
    if not modules:
        raise InputError("the adapter holds no tensors", path=path)
    shape = {"rank": written.rank, "alpha": written.scale * written.rank}
    fields = {
        **shape,
        "dropout": written.dropout,
        "target": sorted({name.rpartition(".")[2] for name in modules}),
        "vision": any(name.startswith("vision_tower.") for name in modules),
        "dora": written.dora,
        "modules": dict.fromkeys(modules, shape),
    }
    return validate(Layout, fields, path=path)


def _tensors(path: Path, ours: dict[str, str], expected: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    refuse(path, "missing", [name for name in expected if name not in ours])
    refuse(path, "of no layer of this adapter", [ours[name] for name in ours if name not in expected])
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    tensors = {name: np.array(loaded[ours[name]].astype(mx.float32)) for name in expected}
    wrong = [
        f"{ours[name]} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if tensors[name].shape != shape
    ]
    refuse(path, "of the wrong shape", wrong)
    refuse(
        path, "holding NaN or infinity", [n for n, values in tensors.items() if not np.isfinite(values).all()]
    )
    return tensors
