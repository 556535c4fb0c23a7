"""Writing safetensors by rows: headers come from planned shapes, so nothing is collected.

Format: 8 bytes of header length, a JSON header padded with spaces, then the tensors' bytes in order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

import mlx.core as mx

from mlx_medlora.files import write_json
from mlx_medlora.gemma.tensorfiles import INDEX, SINGLE

SHARD_BYTES = 5_000_000_000
_SIZES = {"BF16": 2, "F32": 4, "U32": 4}
_DTYPES = {"BF16": mx.bfloat16, "F32": mx.float32, "U32": mx.uint32}
_BLOCK = 1 << 20  # bytes hashed at a time


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


class ShardWriter:
    """One or more safetensors files of planned tensors, each of which is written by rows.

    Rows go straight to their place. A thread reads each tensor once it is whole, in the file's order, and
    hashes it. Use it as a context manager: leaving it ends the thread and closes the files.
    """

    def __init__(
        self,
        directory: Path,
        plan: list[Planned],
        *,
        mark: str,
        limit: int = SHARD_BYTES,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`mark` is the metadata's format ("pt" or "mlx"); `limit` is the most bytes of data a file holds,
        if it holds more than one tensor; `progress` gets the bytes of data written so far.
        """
        self._directory, self._plan, self._progress = directory, plan, progress
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._done = 0
        groups = split(plan, limit)
        names = [SINGLE] if len(groups) == 1 else _numbered(len(groups))
        self._files = [
            _File(directory / name, header(group, mark)) for name, group in zip(names, groups, strict=True)
        ]
        self._places: dict[str, _Place] = {}
        for file, group in zip(self._files, groups, strict=True):
            for planned in group:
                self._places[planned.name] = file.reserve(planned)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        for file in self._files:
            os.close(file.descriptor)

    def append(self, name: str, rows: mx.array) -> None:
        """Write the next rows of a planned tensor. Raises ValueError where they are not what was planned."""
        place = self._places[name]
        data = _payload(rows, place.planned)
        if place.next + len(data) > place.end:
            raise ValueError(f"{name}: more rows than the planned {place.planned.shape}")
        place.file.write(data, place.next)
        place.next += len(data)
        if place.next == place.end:
            place.file.hash_ready(self._thread)
        self._done += len(data)
        if self._progress is not None:
            self._progress(self._done)

    def finish(self) -> list[Written]:
        """Wait for the hashes and write the index, if there are several files.

        Raises ValueError where a planned tensor is not whole.
        """
        lacking = [name for name, place in self._places.items() if place.next < place.end]
        if lacking:
            raise ValueError(f"not all rows were written: {lacking[0]}")
        if len(self._files) > 1:
            weight_map = {name: place.file.path.name for name, place in self._places.items()}
            total = {"total_size": sum(planned.bytes for planned in self._plan)}
            write_json(self._directory / INDEX, {"metadata": total, "weight_map": weight_map})
        return [file.written() for file in self._files]


@dataclass
class _Place:
    """Where a tensor's bytes go, and up to where they have come."""

    planned: Planned
    file: _File
    next: int
    end: int


@dataclass
class _File:
    """One file while it is written."""

    path: Path
    head: bytes
    places: list[_Place] = field(default_factory=list)
    hashing: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        self.size = len(self.head)
        self.digest = hashlib.sha256(self.head)
        self.write(memoryview(self.head), 0)

    def reserve(self, planned: Planned) -> _Place:
        """The next tensor's place."""
        place = _Place(planned, self, self.size, self.size + planned.bytes)
        self.places.append(place)
        self.size = place.end
        return place

    def write(self, data: memoryview, start: int) -> None:
        """Write all of `data` at byte `start`."""
        while data:
            count = os.pwrite(self.descriptor, data, start)
            data, start = data[count:], start + count

    def hash_ready(self, thread: ThreadPoolExecutor) -> None:
        """Have `thread` hash the tensors that are whole and follow the last one it was given."""
        for place in self.places[len(self.hashing) :]:
            if place.next < place.end:
                return
            self.hashing.append(thread.submit(self._hash, place.end - place.planned.bytes, place.end))

    def _hash(self, start: int, end: int) -> None:
        while start < end:
            block = os.pread(self.descriptor, min(_BLOCK, end - start), start)
            if not block:
                raise OSError(f"{self.path} became shorter while it was written")
            self.digest.update(block)
            start += len(block)

    def written(self) -> Written:
        """What the file is, when all of it is hashed."""
        for task in self.hashing:
            task.result()
        return Written(self.path.name, self.size, self.digest.hexdigest())


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


def _numbered(count: int) -> list[str]:
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _payload(rows: mx.array, planned: Planned) -> memoryview:
    """The rows' bytes, without a copy of them."""
    if tuple(rows.shape[1:]) != planned.shape[1:] or rows.dtype != _DTYPES[planned.dtype]:
        raise ValueError(
            f"{planned.name} is {rows.dtype} {rows.shape}, planned {planned.dtype} {planned.shape}"
        )
    flat: Any = mx.contiguous(rows).reshape(-1).view(mx.uint8)
    mx.eval(flat)
    return memoryview(flat)
