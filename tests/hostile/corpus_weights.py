"""Weights from strangers: headers, offsets, values, indexes, and pickles in their place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import places
from hostile import Hostile

Header = dict[str, Any]


def packed(header: Any, data: bytes = b"\0" * 64) -> bytes:
    """A safetensors file with this header, as JSON or as given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def f32(start: int = 0, end: int = 16, shape: list[Any] | None = None, dtype: str = "F32") -> Header:
    return {"dtype": dtype, "shape": shape or [4], "data_offsets": [start, end]}


FILES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("three bytes", b"abc", "damaged or cut off"),
    ("zeros", b"\0" * 100, "damaged"),
    ("header of 2^63 bytes", (2**63).to_bytes(8, "little") + b"{}", "damaged or cut off: a header of"),
    ("header beyond the file", (1000).to_bytes(8, "little") + b"{}", "a header of 1,000 bytes"),
    ("header of 20 MB", packed(b"{" + b" " * 20_000_000 + b"}"), "the limit is 16,777,216"),
    ("header not JSON", packed(b"{oops"), "damaged"),
    ("header a list", packed(b"[]"), "damaged"),
    ("header a text", packed(b'"x"'), "damaged"),
    ("header not UTF-8", packed(b'{"\xff": 1}'), "damaged"),
    ("header nested", packed(b'{"a":' * 5000), "damaged"),
    ("offsets beyond the file", packed({"a": f32(0, 10**9, [250_000_000])}), "damaged"),
    ("offsets backwards", packed({"a": f32(16, 0)}), "damaged"),
    ("negative offsets", packed({"a": f32(-16, 0)}), "damaged"),
    ("overlapping offsets", packed({"a": f32(), "b": f32(8, 24)}, b"\0" * 24), "damaged"),
    ("same bytes twice", packed({"a": f32(), "b": f32()}, b"\0" * 16), "damaged"),
    ("a hole between", packed({"a": f32(), "b": f32(32, 48)}, b"\0" * 48), "damaged"),
    ("bytes behind", packed({"a": f32()}, b"\0" * 999), "damaged"),
    ("shape and bytes differ", packed({"a": f32(0, 16, [5])}, b"\0" * 16), "damaged"),
    ("shape overflows", packed({"a": f32(0, 16, [2**40, 2**40])}, b"\0" * 16), "damaged"),
    ("negative shape", packed({"a": f32(0, 16, [-4])}, b"\0" * 16), "damaged"),
    ("shape of texts", packed({"a": f32(0, 16, ["4"])}, b"\0" * 16), "damaged"),
    ("unknown dtype", packed({"a": f32(dtype="F128")}, b"\0" * 16), "damaged"),
    ("no dtype", packed({"a": {"shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16), "damaged"),
    ("double precision", packed({"a": f32(0, 16, [2], "F64")}, b"\0" * 16), "is F64"),
    ("whole numbers", packed({"a": f32(0, 16, [2], "I64")}, b"\0" * 16), "is I64"),
    ("truth values", packed({"a": f32(0, 16, [16], "BOOL")}, b"\0" * 16), "is BOOL"),
    ("metadata of numbers", packed({"__metadata__": {"a": 1}, "a": f32()}, b"\0" * 16), "damaged"),
    ("metadata a list", packed({"__metadata__": [], "a": f32()}, b"\0" * 16), "damaged"),
    (
        "a tensor twice",
        packed(
            b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},' * 1
            + b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
            b"\0" * 16,
        ),
        "",
    ),
    ("no tensors", packed(b"{}", b""), "missing"),
    (
        "100,000 strangers",
        packed({f"x{i}": f32(i, i + 1, [1], "U8") for i in range(100_000)}, b"\0" * 100_000),
        "",
    ),
    ("a git-lfs pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
    ("a pickle inside", b"\x80\x02}q\x00.", "pickle"),
    ("torch.save inside", b"PK\x03\x04" + b"\0" * 200, "pickle"),
    ("HTML", b"<!DOCTYPE html><html>Access denied</html>", "damaged"),
]


def read(content: bytes) -> tuple[Header, bytes]:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def without(name: str) -> Callable[[bytes], bytes]:
    """The weights with one tensor under another name."""

    def change(content: bytes) -> bytes:
        header, data = read(content)
        header[f"{name}.renamed"] = header.pop(name)
        return packed(header, data)

    return change


def reshaped(name: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        header, data = read(content)
        header[name]["shape"] = [*header[name]["shape"][::-1], 1]
        return packed(header, data)

    return change


def spoilt(name: str, value: float) -> Callable[[bytes], bytes]:
    """The weights with one value that is no number."""

    def change(content: bytes) -> bytes:
        header, data = read(content)
        start, end = header[name]["data_offsets"]
        tensor = bytearray(data[start:end])
        number = np.float32(value).tobytes()
        kind = header[name]["dtype"]
        tensor[-len(number) if kind == "F32" else -2 :] = number if kind == "F32" else number[2:]
        return packed(header, data[:start] + bytes(tensor) + data[end:])

    return change


def cut(content: bytes) -> bytes:
    return content[:-1000]


NORM = "language_model.model.layers.0.input_layernorm.weight"
Q = "language_model.model.layers.2.self_attn.q_proj.weight"
PROJECTOR = "multi_modal_projector.mm_input_projection_weight"
CHANGED: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("cut short", cut, "damaged"),
    ("a missing tensor", without(Q), "missing"),
    ("another shape", reshaped(NORM), "wrong shape"),
    ("NaN in a norm", spoilt(NORM, float("nan")), "NaN or infinity"),
    ("NaN in a matrix", spoilt(Q, float("nan")), "NaN or infinity"),
    ("infinity in the projector", spoilt(PROJECTOR, float("inf")), "NaN or infinity"),
]


def pickled(*names: str) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        home = places.model(place)
        (home / "model.safetensors").unlink()
        for name in names:
            (home / name).write_bytes(b"\x80\x04cos\nsystem\n.")
        return places.convert(place)

    return build


def index(content: Any) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        home = places.model(place)
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (home / "model.safetensors.index.json").write_bytes(text)
        return places.convert(place)

    return build


def piped_weights(place: Path) -> list[str]:
    home = places.model(place)
    (home / "model.safetensors").unlink()
    os.mkfifo(home / "weights.safetensors")
    return places.convert(place)


INDEXES: list[tuple[str, Any, str]] = [
    ("not JSON", b"{oops", "not valid JSON"),
    ("a list", [], "weight_map"),
    ("no map", {"weight_map": {}}, "weight_map"),
    ("climbs out", {"weight_map": {"a": "../../other.safetensors"}}, "no .safetensors name"),
    ("absolute", {"weight_map": {"a": "/etc/passwd"}}, "no .safetensors name"),
    ("names a pickle", {"weight_map": {"a": "pytorch_model.bin"}}, "no .safetensors name"),
    ("a number", {"weight_map": {"a": 7}}, "no .safetensors name"),
    ("missing files", {"weight_map": {"a": "gone.safetensors"}}, "not there"),
    ("a tensor in no file", {"weight_map": {"ghost": "model.safetensors"}}, "in no file"),
]


def _file(said: str) -> str:
    """Which of them is named: what does not fit together is said of the directory."""
    return "model: " if said in ("missing", "wrong shape") else "model.safetensors"


CASES = [
    *(
        Hostile(
            f"weights: {name}",
            lambda place, c=content: places.weights(place, lambda _: c),
            (_file(said), said),
        )
        for name, content, said in FILES
    ),
    *(
        Hostile(f"weights: {name}", lambda place, c=change: places.weights(place, c), (_file(said), said))
        for name, change, said in CHANGED
    ),
    *(
        Hostile(
            f"weights, to train: {name}",
            lambda place, c=change: places.trained(place, c),
            (_file(said), said),
        )
        for name, change, said in CHANGED
    ),
    *(
        Hostile(f"pickle: {name}", pickled(name), ("model: ", "pickles", name, "can run code"))
        for name in ("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.npz", "model.pkl")
    ),
    *(
        Hostile(f"index: {name}", index(content), ("model.safetensors.index.json:", said))
        for name, content, said in INDEXES
    ),
    Hostile("weights: a pipe", piped_weights, ("weights.safetensors: ", "not a regular file")),
]
