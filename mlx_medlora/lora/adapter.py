"""An adapter on disk: `adapters.safetensors` and `adapter_config.json`, read strictly.

The tensors' names and shapes are those of `layout.expected_tensors`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_medlora.errors import InputError
from mlx_medlora.files import keep_private, read_json, write_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.names import listed
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.lora.layers import bind
from mlx_medlora.lora.layout import Layout, expected_tensors, layer_tensors
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.settings import StrictModel, validate

WEIGHTS = "adapters.safetensors"
CONFIG = "adapter_config.json"
FORMAT_VERSION: Literal[1] = 1


class BaseModelId(StrictModel):
    """The model that an adapter belongs to: what it was called, and its fingerprint where it is known.

    `source` is the fingerprint of the weights that the model was converted from: an adapter trained on
    4 bits fits the unquantised weights that the 4 bits came from.
    """

    id: str
    fingerprint: str | None
    source: str | None = None

    def fits(self, fingerprint: str, source: str | None = None) -> bool:
        """True where a model with this fingerprint, or its source, is the base or the base's source."""
        mine = {self.fingerprint, self.source} - {None}
        return not mine or bool(mine & {fingerprint, source})


def base_called(name: str | None) -> BaseModelId:
    """The base of another tool's adapter by its hub id; of a path only the last part is kept.

    The rest of a path tells of somebody's machine, and nothing of the model.
    """
    name = name or "unknown"
    is_path = name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1
    return BaseModelId(id=PurePosixPath(name.replace("\\", "/")).name if is_path else name, fingerprint=None)


class AdapterConfig(Layout):
    """What `adapter_config.json` holds: the adapter's layout and its base."""

    format_version: Literal[1] = FORMAT_VERSION
    base: BaseModelId


@dataclass(frozen=True)
class Adapter:
    """An adapter without a model: its configuration, and its tensors in fp32 by their names here."""

    config: AdapterConfig
    tensors: dict[str, npt.NDArray[np.float32]]


def save_adapter(directory: Path, model: Base, settings: LoraSettings, base: BaseModelId) -> None:
    """Write the adapter that `model` carries, attached with `settings`, into `directory`.

    The directory must exist. The same values give the same bytes. For a directory that is complete or
    absent, call it inside `atomic.atomic_directory`.
    """
    trained: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    tensors = {name: np.array(array.astype(mx.float32)) for name, array in trained.items()}
    layout = settings if isinstance(settings, Layout) else _layout_of(tensors, settings)
    fields = layout.model_dump(include=set(Layout.model_fields))
    write_adapter(directory, Adapter(AdapterConfig(**fields, base=base), tensors))


def _layout_of(tensors: dict[str, npt.NDArray[np.float32]], settings: LoraSettings) -> Layout:
    """The layout of tensors that `settings` gave: every layer has the usual rank and alpha."""
    shape = {"rank": settings.rank, "alpha": settings.alpha}
    names = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
    fields = settings.model_dump(include=set(LoraSettings.model_fields))
    return Layout.model_validate(fields | {"modules": dict.fromkeys(sorted(names), shape)})


def write_adapter(directory: Path, adapter: Adapter) -> None:
    """Write `adapter` into `directory`, which must exist; an interrupt leaves the one before, not half."""
    partial = directory / f".{WEIGHTS}.partial"
    save_file(adapter.tensors, str(partial), metadata={"format": "mlx"})
    keep_private(partial)
    os.replace(partial, directory / WEIGHTS)
    write_json(directory / CONFIG, adapter.config.model_dump(mode="json"))
    keep_private(directory / CONFIG)


def read_adapter_config(directory: Path) -> AdapterConfig:
    """Read `adapter_config.json`. Raises InputError where `directory` is no adapter of this toolkit."""
    if not directory.is_dir():
        raise InputError("no such adapter directory", path=directory, hint="`mlx-medlora train` writes one.")
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
            hint="Adapters of PEFT, mlx-lm and mlx-vlm have another form: `mlx-medlora import` reads them.",
        )
    return validate(AdapterConfig, raw, path=path)


def read_adapter(directory: Path, model: Base) -> Adapter:
    """Read the adapter in `directory` for `model`, which gives names and shapes and is not touched.

    Raises InputError for a layer that `model` does not have, a tensor that is missing, unknown or
    misshapen, and a value that is no number.
    """
    config = read_adapter_config(directory)
    try:
        expected = expected_tensors(model, config)
    except InputError as error:
        raise InputError(str(error), path=directory / CONFIG) from error
    return Adapter(config, read_tensors(directory / WEIGHTS, expected))


def load_adapter(
    model: Base, directory: Path, *, fingerprint: str | None, source: str | None = None
) -> list[str]:
    """Give `model` the adapter in `directory`, in place; return the names of the layers bound.

    Everything is checked before the model is touched: `fingerprint` (the model's; None skips that check)
    and `source` (that of the weights it was converted from), every layer, tensor and shape, and that each
    value is a number. Raises InputError saying what differs.
    """
    adapter = read_adapter(directory, model)
    if fingerprint is not None:
        refuse_other_base(adapter.config.base, fingerprint, source, directory)
    return apply(model, adapter)


def apply(model: Base, adapter: Adapter) -> list[str]:
    """Give `model` an adapter that was read for it, in place; return the names of the layers bound."""
    bound = bind(model, adapter.config)
    tensors = [(name, mx.array(values)) for name, values in adapter.tensors.items()]
    model.load_weights(tensors, strict=False)
    mx.eval(model.trainable_parameters())
    return bound


def refuse_other_base(base: BaseModelId, fingerprint: str, source: str | None, directory: Path) -> None:
    """Raise InputError where the model with this fingerprint and source is not the adapter's base."""
    if base.fits(fingerprint, source):
        return
    raise InputError(
        f"this adapter was trained on another base ({base.id}, fingerprint "
        f"{(base.fingerprint or base.source or '')[:12]}); the model here has {fingerprint[:12]}",
        path=directory,
        hint="Load it with the model that it was trained on, or one converted from the same weights.",
    )


def read_own_tensors(path: Path, layout: Layout) -> dict[str, npt.NDArray[np.float32]]:
    """As `read_tensors`, without a model: widths are taken from the file, ranks and names from `layout`."""
    header, _ = read_header(path)
    shapes = {name: entry.shape for name, entry in header.items()}
    expected: dict[str, tuple[int, ...]] = {}
    for module, shape in layout.modules.items():
        inputs = (shapes.get(f"{module}.lora_a") or (0,))[0]
        outputs = (shapes.get(f"{module}.lora_b") or (0,))[-1]
        expected |= layer_tensors(module, inputs, outputs, shape.rank, layout)
    biases = {f"{name}.linear.bias" if name in layout.modules else f"{name}.bias" for name in layout.biases}
    whole = {name for name in shapes if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    refuse(path, "missing", ["a saved module"] * (len(layout.save_modules) - len(whole)))
    expected |= {name: shapes[name] for name in (biases | whole) & set(shapes)}
    refuse(path, "missing", sorted(biases - set(shapes)))
    return read_tensors(path, expected)


def read_tensors(path: Path, expected: dict[str, tuple[int, ...]]) -> dict[str, npt.NDArray[np.float32]]:
    """Read all tensors as fp32, or raise InputError naming those that are missing, unknown or wrong."""
    header, _ = read_header(path)
    shapes = {name: entry.shape for name, entry in header.items()}
    misshapen = [
        f"{name} is {list(shapes[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    refuse(path, "missing", [name for name in expected if name not in shapes])
    refuse(path, "of no layer of this adapter", [name for name in shapes if name not in expected])
    refuse(path, "of the wrong shape", misshapen)
    loaded = mx.load(str(path))
    assert isinstance(loaded, dict)
    tensors = {name: np.array(loaded[name].astype(mx.float32)) for name in expected}
    refuse(path, "holding NaN or infinity", [n for n in sorted(tensors) if not np.isfinite(tensors[n]).all()])
    return tensors


def refuse(path: Path, fault: str, found: list[str]) -> None:
    """Raise InputError where `found` names tensors with a fault."""
    if found:
        raise InputError(f"the adapter does not fit: {fault}: {listed(found)}", path=path)
