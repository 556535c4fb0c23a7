"""Reading PEFT adapters: every tensor must bind, and every layer that the settings name must be there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.tensorfiles import Stored, read_header
from mlx_medlora.lora.adapter import CONFIG, Adapter, AdapterConfig, base_called, refuse
from mlx_medlora.lora.layout import Layout, expected_tensors, linear_layers, saved_name
from mlx_medlora.lora.peft_config import PeftConfig, read_peft_config
from mlx_medlora.lora.peft_keys import Generation, Key, parse
from mlx_medlora.settings import validate

WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"


@dataclass
class _Found:
    """The tensors of a file by what they are here, with their keys in the file."""

    keys: dict[Key, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def read_peft(directory: Path, model: Base) -> Adapter:
    """Read the PEFT adapter in `directory` for `model`, which gives names and shapes and is not touched.

    Raises InputError naming the settings that are not known here, the tensors that bind to nothing, the
    layers without tensors, and wrong ranks, shapes and values; pickles are refused unopened.
    """
    path = weights_file(directory)
    config = read_peft_config(directory / CONFIG)
    header, _ = read_header(path)
    found = _sort(header, text_only=model.config.text_only)
    refuse(path, "of no layer of this model", found.unknown)
    try:
        layout = _layout(directory, path, config, found, header, model)
    except InputError as error:
        raise error if error.path else InputError(str(error), path=directory / CONFIG) from error
    tensors = _tensors(path, found, layout, header, model)
    return Adapter(
        AdapterConfig(**layout.model_dump(), base=base_called(config.base_model_name_or_path)), tensors
    )


def weights_file(directory: Path) -> Path:
    """The adapter's safetensors file. Raises InputError for a pickle, or a link that leaves the directory."""
    path = directory / WEIGHTS
    if not path.is_file():
        if (directory / PICKLE).exists():
            raise InputError(
                "is a pickle, which can run code when it is opened",
                path=directory / PICKLE,
                hint="Save the adapter again with PEFT's save_pretrained(safe_serialization=True).",
            )
        raise InputError(f"not a PEFT adapter: it has no {WEIGHTS}", path=directory)
    for file in (path, directory / CONFIG):
        _refuse_escape(directory, file)
    return path


def _refuse_escape(directory: Path, file: Path) -> None:
    home, real = directory.resolve(), file.resolve()
    blobs = home.parent.parent / "blobs"  # the hub's cache links its snapshots there
    if real.parent != home and not (home.parent.name == "snapshots" and real.parent == blobs):
        raise InputError("is a link out of the adapter's directory", path=file, hint="Copy the file here.")


def _sort(header: dict[str, Stored], *, text_only: bool) -> _Found:
    found = _Found()
    for name in header:
        key = parse(name, text_only=text_only)
        if key is None or key in found.keys:
            found.unknown.append(name)
        else:
            found.keys[key] = name
    return found


def _layout(
    directory: Path, path: Path, config: PeftConfig, found: _Found, header: dict[str, Stored], model: Base
) -> Layout:
    """The layout that settings and file agree on; the settings say which layers, the file must have them."""
    generation = Generation.of(list(header))
    linear = linear_layers(model, vision=not model.config.text_only)
    theirs = {generation.name(name): name for name in linear}
    targets = [theirs[name] for name in config.targets(theirs)]
    carried = {key.module for key in found.keys if key.kind == "lora_a"}
    strangers = sorted(carried - set(linear))
    refuse(path, "of no layer of this model", strangers)
    refuse(path, "of a layer that target_modules does not name", sorted(carried - set(targets)))
    refuse(path, "missing, though target_modules names the layer", [n for n in targets if n not in carried])
    if not targets:
        raise InputError("target_modules names no linear layer of this model", path=directory / CONFIG)
    shapes = {
        name: {"rank": config.rank_of(generation.name(name)), "alpha": config.alpha_of(generation.name(name))}
        for name in targets
    }
    _refuse_ranks(path, shapes, found, header)
    return validate(Layout, _fields(config, shapes, found), path=directory / CONFIG)


def _refuse_ranks(
    path: Path, shapes: dict[str, dict[str, Any]], found: _Found, header: dict[str, Stored]
) -> None:
    wrong = []
    for name, shape in shapes.items():
        stored = header[found.keys[Key(name, "lora_a")]].shape
        if len(stored) != 2 or stored[0] != shape["rank"]:
            wrong.append(f"{name} is {list(stored)}, but the settings say rank {shape['rank']}")
    refuse(path, "of another rank than adapter_config.json says", wrong)


def _fields(config: PeftConfig, shapes: dict[str, dict[str, Any]], found: _Found) -> dict[str, Any]:
    usual = Counter((shape["rank"], shape["alpha"]) for shape in shapes.values()).most_common(1)[0][0]
    return {
        "rank": usual[0],
        "alpha": usual[1],
        "dropout": config.lora_dropout,
        "target": sorted({name.rpartition(".")[2] for name in shapes}),
        "vision": any(name.startswith("vision_tower.") for name in shapes),
        "rslora": config.use_rslora,
        "dora": config.use_dora,
        "lora_bias": config.lora_bias,
        "save_modules": config.modules_to_save or (),
        "modules": shapes,
        "biases": sorted(key.module for key in found.keys if key.kind == "bias"),
    }


def _tensors(
    path: Path, found: _Found, layout: Layout, header: dict[str, Stored], model: Base
) -> dict[str, npt.NDArray[np.float32]]:
    """All tensors in fp32, in our names and orientation, checked against what `layout` needs."""
    expected = expected_tensors(model, layout)
    ours = {_name(key, layout, model): name for key, name in found.keys.items()}
    refuse(path, "of no layer of this adapter", [ours[name] for name in ours if name not in expected])
    refuse(path, "missing", [name for name in expected if name not in ours])
    misshapen = []
    for name, file_name in ours.items():
        shape = header[file_name].shape
        if (shape[::-1] if name.endswith((".lora_a", ".lora_b")) else shape) != expected[name]:
            misshapen.append(f"{file_name} is {list(shape)}, which does not fit {list(expected[name])}")
    refuse(path, "of the wrong shape", misshapen)
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    tensors = {name: _array(loaded[ours[name]], name) for name in expected}
    broken = [ours[name] for name, values in tensors.items() if not np.isfinite(values).all()]
    refuse(path, "holding NaN or infinity", broken)
    return tensors


def _name(key: Key, layout: Layout, model: Base) -> str:
    if key.kind == "whole":
        return saved_name(key.module.rpartition(".")[2], model)
    if key.kind == "bias":
        return f"{key.module}.linear.bias" if key.module in layout.modules else f"{key.module}.bias"
    return f"{key.module}.{key.kind}"


def _array(values: mx.array, name: str) -> npt.NDArray[np.float32]:
    array = np.array(values.astype(mx.float32))
    return np.ascontiguousarray(array.T) if name.endswith((".lora_a", ".lora_b")) else array
