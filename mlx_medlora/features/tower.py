"""Digests of weights as they are in memory: the tower's and the projector's, or frozen layers'."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.features.private import make_private, write_private
from mlx_medlora.gemma.model import Base, Gemma3, Origin
from mlx_medlora.gemma.tensorfiles import weight_files

_SAMPLE = 256

Tensors = Sequence[tuple[str, mx.array]]


def tower_digest(model: Gemma3, memo: Path | None = None) -> str:
    """Hexadecimal SHA-256 over name, dtype, shape and every byte of the tower's and projector's tensors.

    `memo` is a directory that remembers digests by the checkpoint files' names, sizes and times together with
    a sample of each tensor, so that later runs read 0.3 MB and not 0.8 GB.
    """
    return _digest(list(parts(model)), model.origin, memo)


def layers_digest(model: Base, first: int, memo: Path | None = None) -> str:
    """As `tower_digest`, of the embedding and the layers below `first`."""
    held = {
        "embed_tokens": model.text.embed_tokens.parameters(),
        "layers": [layer.parameters() for layer in model.text.layers[:first]],
    }
    flat: dict[str, mx.array] = dict(tree_flatten(held))
    return _digest(sorted(flat.items()), model.origin, memo)


def _digest(tensors: Tensors, origin: Origin | None, memo: Path | None) -> str:
    note = None if memo is None or origin is None else memo / _quick(tensors, origin.directory)
    if note is not None:
        with suppress(OSError, UnicodeDecodeError):
            known = note.read_text(encoding="ascii").strip()
            if len(known) == 64:
                return known
    found = _full(tensors)
    if note is not None:
        with suppress(OSError):
            _remember(note, found)
    return found


def parts(model: Gemma3) -> Iterator[tuple[str, mx.array]]:
    """Name and array of each of the tower's and the projector's tensors, by name."""
    modules = {"vision_tower": model.vision_tower, "multi_modal_projector": model.multi_modal_projector}
    held: dict[str, dict[str, Any]] = {name: module.parameters() for name, module in modules.items()}
    flat: dict[str, mx.array] = dict(tree_flatten(held))
    yield from sorted(flat.items())


def features_dtype(model: Gemma3) -> mx.Dtype:
    """The dtype of an image's features, of weights that may be of several; nothing is computed for it."""
    vision = model.config.vision
    assert vision is not None
    pixels = mx.zeros((1, vision.num_channels, vision.image_size, vision.image_size))
    features: mx.array = model.multi_modal_projector(model.vision_tower(pixels))
    return features.dtype


def raw(array: mx.array) -> memoryview:
    """An array's bytes, without a copy where it is contiguous."""
    flat: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return memoryview(flat)


def _full(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name, array in tensors:
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(raw(array))
    return digest.hexdigest()


def _quick(tensors: Tensors, directory: Path) -> str:
    """What tells loaded tensors from others without reading all of them."""
    digest = hashlib.sha256()
    for file in weight_files(directory):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    for name, array in tensors:
        data = raw(array)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        middle = len(data) // 2
        for start in (0, middle, max(0, len(data) - _SAMPLE)):
            digest.update(data[start : start + _SAMPLE])
    return digest.hexdigest()


def _remember(note: Path, digest: str) -> None:
    make_private(note.parent.parent)
    make_private(note.parent)
    write_private(note, digest + "\n")
