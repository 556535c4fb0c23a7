"""Loading a checkpoint's tensors into a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError, is_out_of_memory
from mlx_medlora.gemma import names
from mlx_medlora.gemma.checkpoint import Checkpoint, open_checkpoint
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.finite import is_finite, too_large
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.gemma.packed import PackedLinear
from mlx_medlora.gemma.tensorfiles import Stored

__all__ = [
    "Checkpoint",
    "load_part",
    "load_weights",
    "open_checkpoint",
    "packing",
    "refuse_misfits",
    "refuse_unloadable",
]


def load_weights(model: Base, directory: Path, dtype: mx.Dtype | None = None) -> None:
    """Load a checkpoint into `model` (from `model.build`), in place; every tensor must bind.

    Modules are quantised exactly where the checkpoint holds `.scales`. `dtype` (float32 or bfloat16)
    casts what is not packed. Raises InputError for missing, unknown or misshapen tensors, and for
    fp16 weights unless `dtype` is given: Gemma 3 overflows fp16.
    """
    if dtype is not None and dtype not in (mx.float32, mx.bfloat16):
        raise InputError(f"Gemma 3 cannot compute in {dtype}; use float32 or bfloat16")
    checkpoint = open_checkpoint(directory, model.config)
    half = checkpoint.half_precision()
    if half and dtype is None:
        raise InputError(
            f"{names.listed(half)} are fp16, which Gemma 3 overflows",
            path=directory,
            hint="Load with dtype bfloat16 or float32, or run `mlx-medlora convert --dtype bfloat16`.",
        )
    loose = _quantize_modules(model, checkpoint)
    refuse_misfits(model, checkpoint, loose)
    packed = {f"{module}.{part}" for module in loose for part in ("weight", "scales", "biases")}
    tensors = _read(checkpoint, [name for name in checkpoint.stored if name not in packed], dtype)
    tensors += [(f"{module}.weight", _cast(_dequantized(checkpoint, module), dtype)) for module in loose]
    model.load_weights(tensors, strict=True)
    mx.eval(model.parameters())
    _refuse_broken(model, checkpoint, dtype)


def load_part(part: nn.Module, directory: Path, config: ModelConfig, dtype: mx.Dtype | None = None) -> None:
    """Load those tensors of a checkpoint that `part` names, in place, as `load_weights` loads the whole.

    Raises InputError where the checkpoint cannot be opened or lacks one of them.
    """
    checkpoint = open_checkpoint(directory, config)
    loose = _quantize_modules(part, checkpoint)
    wanted: dict[str, mx.array] = dict(tree_flatten(part.parameters()))
    made = {f"{module}.weight": _dequantized(checkpoint, module) for module in loose}
    missing = [name for name in wanted if name not in checkpoint.stored and name not in made]
    if missing:
        raise InputError(f"missing: {names.listed(missing)}", path=directory)
    tensors = _read(checkpoint, [name for name in wanted if name not in made], dtype)
    tensors += [(name, _cast(array, dtype)) for name, array in made.items()]
    part.load_weights(tensors, strict=True)
    mx.eval(part.parameters())
    _refuse_broken(part, checkpoint, dtype)


def _refuse_broken(part: nn.Module, checkpoint: Checkpoint, dtype: mx.Dtype | None) -> None:
    """Raise InputError naming the tensors that hold NaN or infinity: one such value spoils every answer.

    Where only the cast to `dtype` made it so, that is said.
    """
    held: dict[str, mx.array] = dict(tree_flatten(part.parameters()))
    broken = [name for name, array in held.items() if not is_finite(array)]
    if broken:
        entry = checkpoint.stored.get(broken[0])
        path = checkpoint.directory if entry is None else entry.file
        if dtype is not None and entry is not None and is_finite(checkpoint.tensor(broken[0])):
            raise too_large(broken[0], dtype, path, "Load it with dtype float32.")
        raise InputError(f"the weights hold NaN or infinity: {names.listed(broken)}", path=path)


def _read(
    checkpoint: Checkpoint, wanted: Sequence[str], dtype: mx.Dtype | None
) -> list[tuple[str, mx.array]]:
    """The tensors called `wanted`, read file by file: one is open at a time, however many there are."""
    files: dict[Path, list[str]] = {}
    for name in wanted:
        files.setdefault(checkpoint.stored[name].file, []).append(name)
    found: list[tuple[str, mx.array]] = []
    for file, inside in files.items():
        arrays = [_cast(checkpoint.tensor(name), dtype) for name in inside]
        try:
            mx.eval(arrays)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InputError("it could not be read to its end", path=file) from error
        checkpoint.let_go(file)
        found += zip(inside, arrays, strict=True)
    return found


def _cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    return array if dtype is None or array.dtype == mx.uint32 else array.astype(dtype)


def _quantize_modules(model: nn.Module, checkpoint: Checkpoint) -> list[str]:
    """Quantise the modules that the checkpoint holds quantised; return those that must stay matrices.

    Bits and group size are told from the shapes, since a checkpoint may mix them, and config.json
    gives only the usual ones.
    """
    if not checkpoint.quantized:
        return []
    usual = checkpoint.config.quantization
    if usual is None:
        raise InputError(
            "the weights are quantised, but there is no `quantization` here",
            path=checkpoint.directory / "config.json",
        )
    loose = [module for module in (names.POSITIONS,) if f"{module}.scales" in checkpoint.stored]

    def scheme(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if path in loose or f"{path}.scales" not in checkpoint.stored or not hasattr(module, "to_quantized"):
            return False
        return packing(checkpoint, path, module.weight.shape[-1]) or usual.model_dump()

    try:
        nn.quantize(model, usual.group_size, usual.bits, class_predicate=scheme)
    except ValueError as error:
        raise InputError(f"the quantised weights do not fit: {error}", path=checkpoint.directory) from error
    PackedLinear.adopt(model)
    return loose


def packing(checkpoint: Checkpoint, module: str, width: int) -> dict[str, Any] | None:
    """Bits and group size of a module whose rows are `width` long; None where the shapes make no sense."""
    packed, scales = (checkpoint.stored.get(f"{module}.{part}") for part in ("weight", "scales"))
    if packed is None or scales is None or not packed.shape or not scales.shape or not scales.shape[-1]:
        return None
    bits, bits_left = divmod(packed.shape[-1] * 32, width)
    group_size, group_left = divmod(width, scales.shape[-1])
    if bits_left or group_left or bits not in (2, 3, 4, 5, 6, 8) or group_size not in (32, 64, 128):
        return None
    return {"bits": bits, "group_size": group_size, "mode": "affine"}


def _dequantized(checkpoint: Checkpoint, module: str) -> mx.array:
    vision = checkpoint.config.vision
    assert vision is not None
    scheme = packing(checkpoint, module, vision.hidden_size)
    if scheme is None or f"{module}.biases" not in checkpoint.stored:
        raise InputError(f"the quantised tensors of {module} do not fit together", path=checkpoint.directory)
    weight, scales, biases = (
        checkpoint.tensor(f"{module}.{part}") for part in ("weight", "scales", "biases")
    )
    return mx.dequantize(weight, scales, biases, group_size=scheme["group_size"], bits=scheme["bits"])


def refuse_unloadable(checkpoint: Checkpoint) -> None:
    """Raise InputError where `load_weights` would, as far as headers tell: no weights are read."""
    model = build(checkpoint.config)  # its random weights are never computed
    refuse_misfits(model, checkpoint, _quantize_modules(model, checkpoint))


def refuse_misfits(model: Base, checkpoint: Checkpoint, loose: Sequence[str] = ()) -> None:
    """Raise InputError naming the tensors that are missing, unknown, or of another shape or kind.

    `model` gives the names and shapes; `loose` are quantised modules that are dequantised on loading.
    """
    expected: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    stored = checkpoint.stored
    skipped = {f"{module}.{part}" for module in loose for part in ("weight", "scales", "biases")}
    missing = [name for name in expected if name not in stored]
    unknown = [entry.name for name, entry in stored.items() if name not in expected and name not in skipped]
    misshapen = [
        f"{name} is {entry.dtype} {list(entry.shape)}, expected {list(expected[name].shape)}"
        for name, entry in stored.items()
        if name in expected and name not in skipped and not _fits(entry, expected[name])
    ]
    faults = [
        f"{label}: {names.listed(found)}"
        for label, found in (("missing", missing), ("not Gemma 3's", unknown), ("wrong shape", misshapen))
        if found
    ]
    if faults:
        raise InputError(
            f"the weights do not fit config.json; {'; '.join(faults)}",
            path=checkpoint.directory,
            hint="Check that config.json and the weights come from the same checkpoint.",
        )


def _fits(entry: Stored, expected: mx.array) -> bool:
    packed = entry.dtype == "U32"
    return entry.shape == tuple(expected.shape) and packed == (expected.dtype == mx.uint32)
