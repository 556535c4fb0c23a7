"""Adapters from strangers: this toolkit's, PEFT's, mlx-lm's; and checkpoints of a run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import places
from corpus_weights import FILES, packed, read, reshaped, spoilt, without
from hostile import Hostile
from places import ADAPTER, PEFT

OWN_WEIGHTS = (ADAPTER / "adapters.safetensors").read_bytes()
PEFT_WEIGHTS = (PEFT / "adapter_model.safetensors").read_bytes()
_HEAVY = ("header of 20 MB", "100,000 strangers")

OWN: list[tuple[str, dict[str, Any], str]] = [
    ("another format", {"format_version": 99}, "adapter format 99"),
    ("format as text", {"format_version": "1"}, "adapter format '1'"),
    ("rank of a billion", {"rank": 10**9}, "rank"),
    ("negative rank", {"rank": -8}, "rank"),
    ("rank as text", {"rank": "big"}, "rank"),
    ("alpha zero", {"alpha": 0}, "alpha"),
    ("alpha as list", {"alpha": [1]}, "alpha"),
    ("dropout above 1", {"dropout": 1.5}, "dropout"),
    ("no modules", {"modules": ...}, "modules"),
    ("modules as list", {"modules": ["q_proj"]}, "modules"),
    ("modules of numbers", {"modules": {"q_proj": 5}}, "modules"),
    ("a stranger's layer", {"modules": {"evil.q_proj": {"rank": 8, "alpha": 16}}}, ""),
    ("no base", {"base": ...}, "base"),
    ("base as text", {"base": "google/medgemma"}, "base"),
    ("unknown key", {"hooks": ["evil"]}, "unknown option 'hooks'"),
    ("target that names nothing", {"target": ["evil_proj"]}, "target"),
    ("target as number", {"target": 5}, "target"),
]

ENDLESS = r"(?:a|b|.|(\w)|([.])|(?P<x>.))+[!?]"  # takes a step more than twice for each letter

THEIRS: list[tuple[str, dict[str, Any], str]] = [
    ("another kind", {"peft_type": "IA3"}, "peft_type is 'IA3'"),
    ("kind as list", {"peft_type": ["LORA"]}, "peft_type is"),
    ("rank of a billion", {"r": 10**9}, "rank 1000000000"),
    ("rank as text", {"r": "x"}, "r:"),
    ("negative rank", {"r": -1}, "r:"),
    ("alpha as text", {"lora_alpha": "big"}, "lora_alpha"),
    ("negative alpha", {"lora_alpha": -1}, "lora_alpha"),
    ("target never ends", {"target_modules": ENDLESS}, "takes too long"),
    ("target of many stars", {"target_modules": "(.*.*)*(.*.*)*x"}, ""),
    ("rank pattern never ends", {"rank_pattern": {ENDLESS: 4}}, "takes too long"),
    ("alpha pattern never ends", {"alpha_pattern": {ENDLESS: 4}}, "takes too long"),
    ("exclude never ends", {"exclude_modules": ENDLESS}, "takes too long"),
    ("target is no pattern", {"target_modules": "(q_proj"}, "not a regular expression"),
    ("pattern is none", {"rank_pattern": {"[": 4}}, "not a regular expression"),
    ("pattern of a billion", {"target_modules": "(a{1000000000}){1000000000}"}, "repeats too much"),
    ("target as number", {"target_modules": 7}, "target_modules"),
    ("target names nothing", {"target_modules": ["evil_proj"]}, ""),
    ("no target", {"target_modules": None}, ""),
    ("5000 targets", {"target_modules": [f"a{i}" for i in range(5000)]}, "names more than"),
    ("ranks as list", {"rank_pattern": [1]}, "rank_pattern"),
    ("a rank of zero", {"rank_pattern": {"q_proj": 0}}, ""),
    ("saves other modules", {"modules_to_save": ["vision_tower"]}, "modules_to_save"),
    ("another start", {"init_lora_weights": "pissa"}, "init_lora_weights"),
    ("unknown setting", {"arrow_config": {"a": 1}}, "arrow_config"),
    ("code", {"auto_mapping": None, "custom_modules": {"a": "evil.py"}}, "custom_modules"),
    ("layers as texts", {"layers_to_transform": ["a"]}, "layers_to_transform"),
    ("biases", {"bias": "evil"}, "bias"),
]

LM: list[tuple[str, Any, str]] = [
    ("a list", [], ""),
    ("nothing known", {}, "neither this toolkit's"),
    ("full tune", {"fine_tune_type": "full"}, "fine_tune_type"),
    ("rank as text", {"lora_parameters": {"rank": "x", "scale": 1}}, "rank"),
    ("rank of a billion", {"lora_parameters": {"rank": 10**9, "scale": 1}}, "rank"),
    ("scale as text", {"lora_parameters": {"rank": 8, "scale": "x"}}, "scale"),
    ("no scale", {"lora_parameters": {"rank": 8}}, "scale"),
    ("rank zero", {"rank": 0, "alpha": 1}, "rank 0"),
    ("alpha as list", {"rank": 8, "alpha": [1]}, "alpha [1]"),
]

CONFIGS: list[tuple[str, bytes, str]] = [
    ("no JSON", b"{oops", ":1: not valid JSON"),
    ("a list", b"[]", ""),
    ("nested", b'{"a":' * 90_000, "nested"),
    ("NaN", b'{"rank": NaN}', "NaN"),
    ("a key twice", b'{"rank": 1, "rank": 2}', "stands twice"),
    ("20 MB", b'{"a": "' + b"x" * 20_000_000 + b'"}', "is the most that is read"),
]

FIRST = "language_model.model.layers.0.self_attn.q_proj.lora_a"
PEFT_FIRST = next(name for name in read(PEFT_WEIGHTS)[0] if name.endswith("lora_A.weight"))


def scalar(name: str) -> Callable[[bytes], bytes]:
    """The weights with a tensor of no axes."""

    def change(content: bytes) -> bytes:
        header, data = read(content)
        header.pop("__metadata__", None)
        kept = {name: {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}
        for other in header:
            if other != name:
                kept[other] = {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}
        return packed(kept, data[:4])

    return change


def extra(content: bytes) -> bytes:
    header, data = read(content)
    header["evil.lora_a"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    return packed(header, data + b"\0" * 4)


def without_weights(source: Path, *names: str) -> Callable[[Path], list[str]]:
    """An adapter whose weights are pickles."""

    def build(place: Path) -> list[str]:
        places.adapter(place, source)
        for file in (place / "adapter").glob("*.safetensors"):
            file.unlink()
        for name in names:
            (place / "adapter" / name).write_bytes(b"\x80\x04cos\nsystem\n.")
        return ["import", str(place / "adapter"), str(place / "out"), "--model", "tiny-medgemma"]

    return build


def linked_out(place: Path) -> list[str]:
    made = places.adapter(place, PEFT)
    weights = place / "adapter" / "adapter_model.safetensors"
    shutil.move(weights, place / "elsewhere.safetensors")
    os.symlink(place / "elsewhere.safetensors", weights)
    return made


def foreign(content: Any) -> Callable[[Path], list[str]]:
    def build(place: Path) -> list[str]:
        places.adapter(place, ADAPTER, config=json.dumps(content).encode())
        return ["import", str(place / "adapter"), str(place / "out"), "--model", "tiny-medgemma"]

    return build


def checkpoint(**files: bytes) -> Callable[[Path], list[str]]:
    """A run to be resumed whose newest checkpoint has these files."""

    def build(place: Path) -> list[str]:
        places.row(place)
        home = place / ".out.run" / "checkpoints" / "step-000001"
        home.mkdir(parents=True)
        for name, content in files.items():
            (home / f"{name}.json").write_bytes(content)
        arguments = places.dry_run(place / "data")[:-1]
        return [*arguments, "--output", str(place / "out"), "--resume"]

    return build


STATE: dict[str, Any] = {
    "step": 1,
    "place": {"epoch": 1, "updates": 1},
    "best_epoch": None,
    "epochs": [],
    "metrics_bytes": 0,
    "identity": {},
    "versions": {},
    "files": {},
}
TIMES = b'{"seconds": 1, "peak_memory": 1, "timings_bytes": 0, "epochs": []}'
CHECKPOINTS: list[tuple[str, dict[str, bytes], str]] = [
    ("no state", {}, "state.json"),
    ("state no JSON", {"state": b"{oops"}, "state.json"),
    ("state a list", {"state": b"[]"}, "state.json"),
    ("state nested", {"state": b"[" * 100_000}, "state.json"),
    ("state of texts", {"state": json.dumps({**STATE, "step": "x"}).encode()}, "state.json"),
    ("no times", {"state": json.dumps(STATE).encode()}, "timings.json"),
    (
        "names a file outside",
        {
            "state": json.dumps({**STATE, "files": {"../../../../etc/hostname": "0" * 64}}).encode(),
            "timings": TIMES,
        },
        "state.json: damaged: it names the file",
    ),
    (
        "names a device",
        {"state": json.dumps({**STATE, "files": {"/dev/zero": "0" * 64}}).encode(), "timings": TIMES},
        "state.json: damaged: it names the file '/dev/zero'",
    ),
    (
        "names no files",
        {"state": json.dumps(STATE).encode(), "timings": TIMES},
        "does not name adapters.safetensors",
    ),
]

CHANGES: list[tuple[str, Callable[[bytes], bytes], str, str]] = [
    ("own", without(FIRST), "a missing tensor", "missing"),
    ("own", reshaped(FIRST), "another shape", "wrong shape"),
    ("own", spoilt(FIRST, float("nan")), "NaN", "NaN or infinity"),
    ("own", spoilt(FIRST, float("-inf")), "infinity", "NaN or infinity"),
    ("own", scalar(FIRST), "no axes", "wrong shape"),
    ("own", extra, "an extra tensor", "of no layer"),
    ("own", lambda content: content[:-500], "cut short", "damaged"),
    ("peft", without(PEFT_FIRST), "a missing tensor", ""),
    ("peft", reshaped(PEFT_FIRST), "another shape", ""),
    ("peft", spoilt(PEFT_FIRST, float("nan")), "NaN", "NaN or infinity"),
    ("peft", scalar(PEFT_FIRST), "no axes", ""),
    ("peft", extra, "an extra tensor", "of no layer"),
    ("peft", lambda content: content[:-500], "cut short", "damaged"),
]

CASES = [
    *(
        Hostile(
            f"adapter: {name}",
            lambda place, v=values: places.adapter_config(place, ADAPTER, **v),
            ("adapter", said),
        )
        for name, values, said in OWN
    ),
    *(
        Hostile(
            f"PEFT: {name}",
            lambda place, v=values: places.adapter_config(place, PEFT, **v),
            ("adapter", said),
        )
        for name, values, said in THEIRS
    ),
    *(
        Hostile(f"mlx-lm: {name}", foreign(content), ("adapter_config.json", said))
        for name, content, said in LM
    ),
    *(
        Hostile(
            f"{source.name} config: {name}",
            lambda place, s=source, c=content: places.adapter(place, s, config=c),
            ("adapter_config.json", said),
        )
        for source in (ADAPTER, PEFT)
        for name, content, said in CONFIGS
    ),
    *(
        Hostile(
            f"adapter weights: {name}",
            lambda place, c=content: places.adapter(place, ADAPTER, own=c),
            ("adapters.safetensors: ", said),
        )
        for name, content, said in FILES
        if name not in _HEAVY
    ),
    *(
        Hostile(
            f"{kind} weights: {name}",
            lambda place, k=kind, c=change: places.adapter(
                place,
                ADAPTER if k == "own" else PEFT,
                **{k: c(OWN_WEIGHTS if k == "own" else PEFT_WEIGHTS)},
            ),
            (".safetensors: ", said),
        )
        for kind, change, name, said in CHANGES
    ),
    *(
        Hostile(f"pickled adapter: {name}", without_weights(source, name), ("adapter", name, "pickle"))
        for source, name in [
            (PEFT, "adapter_model.bin"),
            (ADAPTER, "adapters.npz"),
            (ADAPTER, "adapter.pt"),
            (ADAPTER, "adapters.pkl"),
        ]
    ),
    Hostile("PEFT: weights are a link out", linked_out, ("adapter_model.safetensors: ", "is a link out")),
    *(Hostile(f"checkpoint: {name}", checkpoint(**files), (said,)) for name, files, said in CHECKPOINTS),
]
