"""Hostile inputs made by hypothesis: what may be changed in each kind of file, and how."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus_adapters
import corpus_weights
import places
from hypothesis import strategies as st
from PIL import Image
from station import Outcome

Builder = Callable[[Path, Any], list[str]]


@dataclass(frozen=True)
class Fuzzer:
    """`build` writes a drawn value into an empty directory and returns the command that reads it.

    `names`: one of them stands in the message of what is refused. `examples` are tried in the test suite,
    and at least `refused` of them are malformed.
    """

    name: str
    values: st.SearchStrategy[Any]
    build: Builder
    names: tuple[str, ...]
    examples: int
    refused: int

    def __str__(self) -> str:
        return self.name

    def faults(self, outcome: Outcome) -> list[str]:
        """What is wrong with how the command ended."""
        nameless = outcome.status == 2 and not any(name in outcome.said for name in self.names)
        return [*outcome.faults, *(["no file is named"] if nameless else [])]


NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 1.5, 10**9, -(10**9), 2**31, 2**63, 10**30, 1e308, -1e308, 1e-320]),
    st.integers(-5, 600),
    st.floats(allow_nan=False, allow_infinity=False),
)
WORDS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", " ", "../x", "/etc/passwd", "\x1b[2J", "(a+)+$", "[", "q_proj", "LORA", "=1+1"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=8,
)


def damaged(content: bytes, reach: int | None = None) -> st.SearchStrategy[bytes]:
    """`content` with bytes changed, put in or taken out within its first `reach`, or cut short."""
    last = min(len(content), reach or len(content)) - 1
    odd = st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from(list(b'{}[]",:;\n\r\0\xff\xef\\-9')))
    edit = st.tuples(st.integers(0, last), st.sampled_from(["put", "set", "cut", "end"]), odd)

    def edited(edits: list[tuple[int, str, Any]]) -> bytes:
        made = bytearray(content)
        for place, how, what in edits:
            bit = what if isinstance(what, bytes) else bytes([what])
            if how == "end":
                del made[max(1, place) :]
            else:
                made[place : place + (0 if how == "put" else len(bit))] = b"" if how == "cut" else bit
        return bytes(made)

    return st.lists(edit, min_size=1, max_size=5).map(edited)


def changed(raw: dict[str, Any], *inner: str) -> st.SearchStrategy[bytes]:
    """A JSON object with values of its keys, or of those of its objects `inner`, replaced or taken out."""
    paths = [(key,) for key in raw] + [(part, key) for part in inner for key in raw[part]]
    change = st.tuples(st.sampled_from([*paths, ("unheard_of",)]), st.one_of(VALUES, st.just(...)))

    def edited(changes: list[tuple[tuple[str, ...], Any]]) -> bytes:
        made = json.loads(json.dumps(raw))
        for path, value in changes:
            target = made
            for part in path[:-1]:
                target = target.get(part) if isinstance(target, dict) else None
            if not isinstance(target, dict):
                continue
            target.pop(path[-1], None)
            if value is not ...:
                target[path[-1]] = value
        return json.dumps(made).encode()

    return st.lists(change, min_size=1, max_size=4).map(edited)


def loads(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


ROW = json.dumps(places.ROW).encode()
TABLE = f"{places.COLUMNS}\n{','.join(places.CELLS)}\n".encode()
YAML_BITS = st.sampled_from(
    [
        *"\n\n\n::  --[]{},&*!|>'\"#%@`~?\t\0",
        *("lr", "rank", "target", "true", "1e-3", "0x1F", ".nan", "<<", "!!python/", "!!int", "&a", "*a"),
        *("---", "...", "2024-13-01", "1:30", "- ", ": ", "\n  "),
    ]
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F16", "U32", "F64", "I8", "BOOL", "X", 7]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 4, 8, -1, 2**40, 2**64, 1.5, "4"]), max_size=3),
        "data_offsets": st.lists(
            st.sampled_from([0, 4, 8, 16, 32, -4, 2**50, 2**65, 0.5]), min_size=1, max_size=3
        ),
    }
)
NAMES = st.sampled_from(
    [corpus_weights.NORM, corpus_weights.Q, corpus_adapters.FIRST, "a", "", "__metadata__"]
)
HEADERS = st.builds(
    corpus_weights.packed,
    st.one_of(st.dictionaries(NAMES, st.one_of(ENTRY, VALUES), max_size=4), VALUES, st.binary(max_size=60)),
    st.sampled_from([b"", b"\0" * 4, b"\0" * 16, b"\xff" * 32]),
)
CONFIG = loads(places.TINY / "config.json")


def picture(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((24, 20)).convert("RGB").save(stream, kind)
    return stream.getvalue()


def joined(bits: list[str]) -> bytes:
    return "".join(bits).encode()


def weights(place: Path, content: bytes) -> list[str]:
    return places.weights(place, lambda _: content)


FUZZERS = [
    Fuzzer(
        "case rows, bytes",
        damaged(ROW),
        lambda place, line: places.rows(place, ROW.replace(b'"a"', b'"first"', 1) + b"\n" + line),
        ("train.jsonl",),
        80,
        30,
    ),
    Fuzzer(
        "case rows, values",
        changed(places.ROW, "metadata"),
        lambda place, line: places.rows(place, line),
        ("train.jsonl",),
        60,
        30,
    ),
    Fuzzer("tables, CSV", damaged(TABLE), places.table, ("cases.csv",), 80, 30),
    Fuzzer(
        "tables, JSON",
        st.one_of(VALUES.map(lambda value: json.dumps(value).encode()), damaged(b"[" + ROW + b"]")),
        lambda place, content: places.table(place, content, "json"),
        ("cases.json",),
        40,
        20,
    ),
    Fuzzer(
        "settings, YAML",
        st.lists(st.one_of(YAML_BITS, WORDS), min_size=1, max_size=14).map(
            lambda bits: "".join(bits).encode()
        ),
        places.options,
        ("recipe.yaml",),
        80,
        40,
    ),
    Fuzzer("safetensors headers", HEADERS, weights, ("model",), 80, 70),
    Fuzzer(
        "safetensors bytes",
        damaged(corpus_adapters.OWN_WEIGHTS, 4000),
        lambda place, content: places.adapter(place, own=content),
        ("adapters.safetensors",),
        60,
        30,
    ),
    Fuzzer(
        "adapter settings",
        changed(loads(places.ADAPTER / "adapter_config.json"), "modules", "base"),
        lambda place, content: places.adapter(place, config=content),
        ("adapter_config.json", "adapters.safetensors"),
        60,
        30,
    ),
    Fuzzer(
        "PEFT settings",
        changed(loads(places.PEFT / "adapter_config.json")),
        lambda place, content: places.adapter(place, places.PEFT, config=content),
        ("adapter_config.json", "adapter_model.safetensors"),
        60,
        15,
    ),
    Fuzzer(
        "model configurations",
        changed(CONFIG, "text_config", "vision_config"),
        lambda place, content: places.config(place, content),
        ("config.json",),
        80,
        30,
    ),
    Fuzzer(
        "image processors",
        changed(loads(places.TINY / "preprocessor_config.json"), "size"),
        lambda place, content: places.companion(place, "preprocessor_config.json", content),
        ("model",),
        30,
        5,
    ),
    Fuzzer(
        "tokenizers",
        damaged((places.TINY / "tokenizer.json").read_bytes()),
        lambda place, content: places.companion(place, "tokenizer.json", content),
        ("model", "train.jsonl"),
        30,
        5,
    ),
    Fuzzer(
        "images",
        st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP"]).flatmap(
            lambda kind: damaged(picture(kind))
        ),
        places.image,
        ("bad.png",),
        80,
        30,
    ),
]
