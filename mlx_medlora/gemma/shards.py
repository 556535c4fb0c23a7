"""Writing safetensors one tensor at a time: headers come from planned shapes, so nothing is collected.

Format: 8 bytes of header length, a JSON header padded with spaces, then the tensors' bytes in order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_medlora.files import write_json
from mlx_medlora.gemma.tensorfiles import INDEX, SINGLE

SHARD_BYTES = 5_000_000_000
_SIZES = {"BF16": 2, "F32": 4, "U32": 4}
_DTYPES = {"BF16": mx.bfloat16, "F32": mx.float32, "U32": mx.uint32}


@dataclass(frozen=True)
class Planned:
    """One tensor to be written: its name, shape and safetensors dtype (BF16, F32 or U32)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def bytes(self) -> int:
        """Size of the tensor's data."""
        return prod(self.shape) * _SIZES[self.dtype]


@dataclass(frozen=True)
class Written:
    """One finished file."""

    name: str
    bytes: int
    sha256: str


def write_shards(
    directory: Path,
    plan: list[Planned],
    arrays: Iterator[mx.array],
    *,
    mark: str,
    limit: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> list[Written]:
    """Write `arrays`, which come in the order of `plan`, to one or more safetensors files.

    Each array is evaluated, written and released before the next is asked for. `mark` is the
    metadata's format ("pt" or "mlx"); `limit` is the most bytes of data a file holds, if it holds
    more than one tensor; `progress` gets the bytes written so far. Raises ValueError where an array
    is not what was planned.
    """
    groups = split(plan, limit)
    files: list[Written] = []
    weight_map: dict[str, str] = {}
    done = 0
    for number, group in enumerate(groups, start=1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        with (directory / name).open("wb") as stream:
            sink = _Hashing(stream.write)
            sink.write(header(group, mark))
            for planned in group:
                sink.write(_payload(next(arrays), planned))
                done += planned.bytes
                if progress is not None:
                    progress(done)
        weight_map |= {planned.name: name for planned in group}
        files.append(Written(name, sink.bytes, sink.digest.hexdigest()))
    if len(groups) > 1:
        total = {"total_size": sum(planned.bytes for planned in plan)}
        write_json(directory / INDEX, {"metadata": total, "weight_map": weight_map})
    return files


def split(plan: list[Planned], limit: int) -> list[list[Planned]]:
    """Cut the plan, in order, into files of at most `limit` bytes (or one larger tensor)."""
    groups: list[list[Planned]] = [[]]
    size = 0
    for planned in plan:
        if groups[-1] and size + planned.bytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(planned)
        size += planned.bytes
    return groups


def header(group: list[Planned], mark: str) -> bytes:
    """A file's first bytes: the header's length and the header."""
    fields: dict[str, object] = {"__metadata__": {"format": mark}}
    start = 0
    for planned in group:
        end = start + planned.bytes
        fields[planned.name] = {
            "dtype": planned.dtype,
            "shape": list(planned.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text


def _payload(array: mx.array, planned: Planned) -> memoryview:
    """The array's bytes, without a copy of them."""
    if tuple(array.shape) != planned.shape or array.dtype != _DTYPES[planned.dtype]:
        raise ValueError(
            f"{planned.name} is {array.dtype} {array.shape}, planned {planned.dtype} {planned.shape}"
        )
    flat: Any = mx.contiguous(array).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return memoryview(flat)


class _Hashing:
    """Passes bytes on, counting and hashing them."""

    def __init__(self, write: Callable[[bytes | memoryview], int]) -> None:
        self._write = write
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes | memoryview) -> None:
        self._write(data)
        self.digest.update(data)
        self.bytes += len(data)
