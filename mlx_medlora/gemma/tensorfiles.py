"""The safetensors files of a checkpoint directory: which ones there are, and what their headers say."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.jsontext import parse_json
from mlx_medlora.textfiles import open_regular

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
READABLE = ("BF16", "F16", "F32", "U32")
_SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U32": 4}
_NUMPY = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32, "U32": np.uint32}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".npz", ".npy", ".joblib", ".h5")
_PICKLED = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
HEADER_BYTES = 16 << 20  # of a model with a hundred thousand tensors
_SHARD = re.compile(r"-(\d+)-of-(\d+)\.safetensors$")
_REFETCH = "Copy or download this file again."


@dataclass(frozen=True)
class Stored:
    """One tensor as a file holds it: `start` and `end` are byte offsets into that file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str  # a safetensors dtype: BF16, F16, F32 or U32
    start: int
    end: int

    @property
    def bytes(self) -> int:
        """Size of the tensor's data."""
        return self.end - self.start


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in a fixed order.

    Raises InputError where there are none (naming any pickle that stands in their place) or where
    shards that the index or the file names announce are missing.
    """
    if not directory.is_dir():
        raise InputError("no such model directory", path=directory)
    if (directory / INDEX).is_file():
        return _indexed_files(directory)
    if (directory / SINGLE).is_file():
        return [directory / SINGLE]
    found = sorted(directory.glob("*.safetensors"))
    files = [path for path in found if not path.name.startswith(("adapter", "consolidated"))]
    if not files:
        raise _no_weights(directory)
    _refuse_missing_shards(directory, files)
    return files


def _indexed_files(directory: Path) -> list[Path]:
    names = sorted(set(read_index(directory / INDEX).values()))
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise InputError(
            f"names {len(missing)} of {len(names)} weight files that are not there: {', '.join(missing[:4])}",
            path=directory / INDEX,
            hint="The copy or download is incomplete: fetch the missing files.",
        )
    return [directory / name for name in names]


def read_index(path: Path) -> dict[str, str]:
    """The tensor -> file map of an index. Raises InputError where it is malformed or leaves the directory."""
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError("expected an object with a non-empty weight_map", path=path, line=1)
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise InputError(f"tensor {tensor!r} is said to be in {file!r}, no .safetensors name", path=path)
    return weight_map


def _no_weights(directory: Path) -> InputError:
    if pickle := refused_pickle(directory):
        return pickle
    if gguf := sorted(path.name for path in directory.glob("*.gguf")):
        return InputError(f"the weights are GGUF ({gguf[0]}); only safetensors can be read", path=directory)
    return InputError(
        "no *.safetensors file here, so there are no weights to load",
        path=directory,
        hint="Give the directory that `mlx-medlora convert` or `save_pretrained` wrote.",
    )


def refused_pickle(directory: Path) -> InputError | None:
    """The error that names the pickles in `directory`, which are never opened; None where there are none."""
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
    if not pickles:
        return None
    return InputError(
        f"the weights are Python pickles ({', '.join(pickles[:3])}), which can run code when read",
        path=directory,
        hint="Use safetensors files, or save it again with a current transformers, PEFT or MLX.",
    )


def _refuse_missing_shards(directory: Path, files: list[Path]) -> None:
    shards = [match for path in files if (match := _SHARD.search(path.name))]
    announced = max((int(match[2]) for match in shards), default=0)
    present = {int(match[1]) for match in shards}
    missing = [number for number in range(1, announced + 1) if number not in present]
    if missing:
        numbers = ", ".join(str(number) for number in missing[:6])
        raise InputError(
            f"{len(missing)} of {announced} weight files are not there: shard {numbers}",
            path=directory,
            hint="The copy or download is incomplete: fetch the missing files.",
        )


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """The tensors of one safetensors file and its metadata; no data is read.

    Raises InputError where the file is empty, cut off, not safetensors, its header is absurdly large or names
    a tensor twice, or it holds dtypes that MLX cannot compute with.
    """
    length = _header_length(path)
    try:
        with safe_open(str(path), framework="numpy") as stream:  # checks offsets against the file's size
            metadata = dict(stream.metadata() or {})
    except (SafetensorError, OSError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise InputError(f"damaged or cut off: {reason}", path=path, hint=_REFETCH) from error
    with path.open("rb") as raw:
        raw.seek(8)
        content = raw.read(length)
    try:
        header = parse_json(content.decode(), path, values=HEADER_BYTES)
        fields = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return {name: _stored(path, name, entry, 8 + length) for name, entry in fields.items()}, metadata
    except (UnicodeDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"damaged: its header makes no sense ({error})", path=path, hint=_REFETCH) from error


def _header_length(path: Path) -> int:
    """Bytes of the header, which the first eight bytes give. Raises InputError for one that cannot be."""
    with open_regular(path) as raw:
        start = raw.read(24)
        size = os.fstat(raw.fileno()).st_size
    if size == 0:
        raise InputError("the file is empty", path=path, hint=_REFETCH)
    if start.startswith(b"version https://git-lfs"):
        message = "a git-lfs pointer, not the weights themselves"
        raise InputError(message, path=path, hint="Run `git lfs pull` there.")
    if start[8:9] != b"{" and start.startswith(_PICKLED):  # a header's length may look like one
        message = "a Python pickle under the name of a safetensors file; it was not opened"
        raise InputError(message, path=path, hint="Use the model's safetensors files.")
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > size - 8:
        message = f"damaged or cut off: a header of {length:,} bytes in a file of {size:,}"
        raise InputError(message, path=path, hint=_REFETCH)
    if length > HEADER_BYTES:
        message = f"damaged: a header of {length:,} bytes; the limit is {HEADER_BYTES:,}"
        raise InputError(message, path=path, hint=_REFETCH)
    return length


def read_rows(entry: Stored, start: int, stop: int) -> npt.NDArray[Any]:
    """The values of rows `start` to `stop` (of the first axis), flat; BF16 comes as its bits in uint16.

    Plain reads: memory-mapped pages would count as this process's memory. Raises InputError where the
    file has become shorter since its header was read.
    """
    row = entry.bytes // entry.shape[0]
    found = np.empty((stop - start) * row // _SIZES[entry.dtype], _NUMPY[entry.dtype])
    unread = found.data.cast("B")
    with entry.file.open("rb", buffering=0) as stream:
        stream.seek(entry.start + start * row)
        while unread:
            count = stream.readinto(unread)
            if not count:
                raise InputError(f"cut off inside {entry.name}", path=entry.file, hint=_REFETCH)
            unread = unread[count:]
    return found


def _stored(path: Path, name: str, fields: dict[str, Any], data: int) -> Stored:
    if fields["dtype"] not in READABLE:
        raise InputError(f"tensor {name:.200} is {fields['dtype']}; expected BF16 or F32", path=path)
    start, end = fields["data_offsets"]
    return Stored(path, name, tuple(map(int, fields["shape"])), fields["dtype"], data + start, data + end)
