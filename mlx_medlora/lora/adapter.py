"""An adapter on disk: `adapters.safetensors` and `adapter_config.json`, read strictly.

Tensors are named `<layer>.lora_a` (in, r) and `<layer>.lora_b` (r, out), after the layers of the base.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json, write_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.names import listed
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.lora.layers import Linear, LoraLinear, attach, find_targets, widths
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.settings import StrictModel, validate

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
FORMAT_VERSION: Literal[1] = 1


class BaseModelId(StrictModel):
    """The model that an adapter belongs to: what it was called, and its fingerprint."""

    id: str
    fingerprint: str


class AdapterConfig(LoraSettings):
    """What `adapter_config.json` holds; `modules` are the layers that were bound, by their full names."""

    format_version: Literal[1] = FORMAT_VERSION
    base: BaseModelId
    modules: tuple[str, ...]


def save_adapter(directory: Path, model: Base, settings: LoraSettings, base: BaseModelId) -> None:
    """Write the adapter that `model` carries into `directory`, which must exist.

    The same values give the same bytes. For a directory that is complete or absent, call it inside
    `files.atomic_directory`.
    """
    trained: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    tensors = {name: np.array(array.astype(mx.float32)) for name, array in trained.items()}
    modules = sorted(name for name, module in model.named_modules() if isinstance(module, LoraLinear))
    shape = settings.model_dump(include=set(LoraSettings.model_fields))
    config = AdapterConfig(**shape, base=base, modules=tuple(modules))
    partial = directory / f".{WEIGHTS}.partial"
    save_file(tensors, str(partial), metadata={"format": "mlx"})
    os.replace(partial, directory / WEIGHTS)  # an interrupt leaves the one before, not half of this
    write_json(directory / CONFIG, config.model_dump(mode="json"))


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read `adapter_config.json`. Raises InputError where `directory` is no adapter of this toolkit."""
    if not directory.is_dir():
        raise InputError("no such adapter directory", path=directory, hint="`mlx-medlora train` writes one.")
    for name in PEFT_WEIGHTS:
        if (directory / name).is_file():
            raise InputError(
                "this is a PEFT adapter, which this release cannot read yet",
                path=directory,
                hint="Reading PEFT adapters comes with the command `import`.",
            )
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise InputError(f"not an adapter directory: it has no {name}", path=directory)
    path = directory / CONFIG
    raw = read_json(path)
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or version != FORMAT_VERSION:
        raise InputError(
            f"adapter format {version!r}; this release reads format {FORMAT_VERSION}",
            path=path,
            hint="Adapters of mlx-lm and mlx-vlm have another form; train this one again, or update.",
        )
    return validate(AdapterConfig, raw, path=path)


def load_adapter(model: Base, directory: Path, *, fingerprint: str | None) -> list[str]:
    """Attach the adapter in `directory` to `model`, in place; return the names of the layers bound.

    Everything is checked before the model is touched: `fingerprint` (the base's; None skips that check),
    every layer, tensor and shape, and that each value is a number. Raises InputError saying what differs.
    """
    config = read_adapter_config(directory)
    if fingerprint is not None and fingerprint != config.base.fingerprint:
        raise InputError(
            f"this adapter was trained on another base ({config.base.id}, fingerprint "
            f"{config.base.fingerprint[:12]}); the model here has {fingerprint[:12]}",
            path=directory,
            hint="Load it with the model that it was trained on, at the same quantisation and dtype.",
        )
    targets = find_targets(model, config)
    if set(targets) != set(config.modules):
        odd = sorted(set(targets) ^ set(config.modules))
        raise InputError(
            f"the layers it adapts are not this model's: {', '.join(odd[:4])}", path=directory / CONFIG
        )
    tensors = _checked_tensors(directory / WEIGHTS, targets, config.rank)
    bound = attach(model, config)
    model.load_weights(list(tensors.items()), strict=False)
    mx.eval(model.trainable_parameters())
    return bound


def _checked_tensors(path: Path, targets: dict[str, Linear], rank: int) -> dict[str, mx.array]:
    """Read all tensors as fp32, or raise InputError naming those that are missing, unknown or wrong."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, linear in targets.items():
        inputs, outputs = widths(linear)
        expected[f"{name}.lora_a"], expected[f"{name}.lora_b"] = (inputs, rank), (rank, outputs)
    header, _ = read_header(path)
    shapes = {name: entry.shape for name, entry in header.items()}
    misshapen = [
        f"{name} is {list(shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    _refuse(path, "missing", [name for name in expected if name not in shapes])
    _refuse(path, "of no layer of this adapter", [name for name in shapes if name not in expected])
    _refuse(path, "of the wrong shape", misshapen)
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    tensors = {name: array.astype(mx.float32) for name, array in loaded.items()}
    broken = [name for name in sorted(tensors) if not mx.isfinite(tensors[name]).all().item()]
    _refuse(path, "holding NaN or infinity", broken)
    return tensors


def _refuse(path: Path, fault: str, found: list[str]) -> None:
    if found:
        raise InputError(f"the adapter does not fit: {fault}: {listed(found)}", path=path)
