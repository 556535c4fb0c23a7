"""One file of the store: features of some images, a checksum for each, in safetensors' format.

Tensors are named by the SHA-256 of the image file; the metadata has the identity that they were computed
under. A file is written beside, then renamed, and never changed afterwards.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from uuid import uuid4

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.errors import InputError
from mlx_medlora.features.identity import Identity
from mlx_medlora.gemma.tensorfiles import read_header

SUFFIX = ".safetensors"
PARTIAL = ".partial"
OVERHEAD = 512  # bytes of header for each image, at most
_KIND = "mlx-medlora image features"
_NAMES = {mx.bfloat16: "BF16", mx.float32: "F32"}
_VIEWS: dict[mx.Dtype, npt.DTypeLike] = {mx.bfloat16: np.uint16, mx.float32: np.float32}  # as numpy sees them


class Unusable(Exception):
    """A file that features cannot be read from. `damaged` is False where it is somebody else's."""

    def __init__(self, reason: str, *, damaged: bool) -> None:
        super().__init__(reason)
        self.reason, self.damaged = reason, damaged


@dataclass(frozen=True)
class Shard:
    """A finished file: its images' keys, where each one's data begins, and its checksum. `size` in bytes."""

    path: Path
    size: int
    keys: list[bytes]
    starts: npt.NDArray[np.int64]
    checksums: npt.NDArray[np.uint32]


def checksum(key: bytes, data: bytes | memoryview) -> int:
    """CRC-32 over the image's key and its features, so that neither can stand beside another's."""
    return zlib.crc32(data, zlib.crc32(key))


def write_shard(directory: Path, entries: Mapping[bytes, bytes], identity: Identity) -> Shard:
    """Write features by key into a new file of `directory`, readable by the user alone.

    Nothing is flushed to the disk: what a power cut damages is found by its checksum. Raises OSError.
    """
    keys = list(entries)
    header = _header(entries, identity)
    path = directory / f"{uuid4().hex}{SUFFIX}"
    partial = path.with_suffix(PARTIAL)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(header)
            for key in keys:
                stream.write(entries[key])
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    starts = len(header) + np.arange(len(keys), dtype=np.int64) * identity.nbytes
    checks = np.array([checksum(key, entries[key]) for key in keys], dtype=np.uint32)
    return Shard(path, len(header) + len(keys) * identity.nbytes, keys, starts, checks)


def _header(entries: Mapping[bytes, bytes], identity: Identity) -> bytes:
    checks = ",".join(f"{checksum(key, data):08x}" for key, data in entries.items())
    fields: dict[str, object] = {
        "__metadata__": {"kind": _KIND, "identity": identity.digest, "crc32": checks}
    }
    for place, key in enumerate(entries):
        start = place * identity.nbytes
        fields[key.hex()] = {
            "dtype": _NAMES[identity.dtype],
            "shape": list(identity.shape),
            "data_offsets": [start, start + identity.nbytes],
        }
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_shard(path: Path, identity: Identity) -> Shard:
    """What a file holds; no features are read. Raises Unusable, FileNotFoundError."""
    try:
        tensors, metadata = read_header(path)
        size = path.stat().st_size
    except FileNotFoundError:
        raise
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise Unusable("it is cut short or damaged", damaged=True) from error
    if metadata.get("kind") != _KIND or metadata.get("identity") != identity.digest:
        raise Unusable("it was made by another program, model or processor", damaged=False)
    stored = sorted(tensors.values(), key=lambda entry: entry.start)
    wanted = (identity.shape, _NAMES[identity.dtype])
    try:
        keys = [bytes.fromhex(entry.name) for entry in stored]
        checks = [int(text, 16) for text in metadata["crc32"].split(",")]
        fits = len(checks) == len(keys) and all((entry.shape, entry.dtype) == wanted for entry in stored)
        shard = Shard(
            path,
            size,
            keys,
            np.array([entry.start for entry in stored], dtype=np.int64),
            np.array(checks, dtype=np.uint32),
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise Unusable("its header is damaged", damaged=True) from error
    if not fits:
        raise Unusable("its header is damaged", damaged=True)
    return shard


def open_map(shard: Shard) -> memoryview:
    """The whole file as a memory map. Raises OSError where it is gone, Unusable where it was cut short."""
    with shard.path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size < shard.size:  # reading past the end would kill the process
            raise Unusable("it is cut short", damaged=True)
        return memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ))


def to_bytes(array: mx.array) -> bytes:
    """The bytes of features (T, D)."""
    numbers = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return np.array(numbers).tobytes()


def to_array(data: bytes | memoryview, identity: Identity) -> mx.array:
    """Features (T, D) from their bytes, bit for bit."""
    raw = np.frombuffer(data, dtype=_VIEWS[identity.dtype]).reshape(identity.shape)
    array = mx.array(raw)
    return array.view(mx.bfloat16) if identity.dtype == mx.bfloat16 else array
