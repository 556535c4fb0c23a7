"""Directories with one hostile file among sound ones, and the command that reads it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "mlx_medlora" / "assets" / "tiny-medgemma"
ADAPTER = ROOT / "adapters" / "reference"
PEFT = ROOT / "adapters" / "reference-peft"

ROW: dict[str, Any] = {
    "id": "a",
    "instruction": "Compare.",
    "input": "**Finding:** none",
    "output": "CORRECT - Treatment matches imaging findings",
    "image_path": "images/scan.png",
    "metadata": {"modality": "xray"},
}
COLUMNS = "id,modality,image,age,gender,finding,treatment,label"
CELLS = ["a", "xray", "scan.png", "40", "F", "none", "rest", "CORRECT"]

Arguments = list[str]


def rows(place: Path, content: bytes) -> Arguments:
    """`train.jsonl` of a dataset."""
    _scan(place / "data" / "images")
    (place / "data" / "train.jsonl").write_bytes(content)
    return dry_run(place / "data")


def row(place: Path, **fields: Any) -> Arguments:
    """A sound row, then one with other fields."""
    lines = [json.dumps(ROW), json.dumps({**ROW, "id": "b", **fields})]
    return rows(place, "\n".join(lines).encode())


def table(place: Path, content: bytes, kind: str = "csv") -> Arguments:
    """A table for `prepare`."""
    _scan(place / "scans")
    (place / f"cases.{kind}").write_bytes(content)
    return _prepare(place, f"cases.{kind}")


def cells(place: Path, **changed: str) -> Arguments:
    """A table of two rows whose second has other cells."""
    names = COLUMNS.split(",")
    other = [changed.get(name, cell) for name, cell in zip(names, ["b", *CELLS[1:]], strict=True)]
    quoted = ['"{}"'.format(cell.replace('"', '""')) for cell in other]
    return table(place, "\n".join([COLUMNS, ",".join(CELLS), ",".join(quoted)]).encode())


def image(place: Path, content: bytes, name: str = "bad.png") -> Arguments:
    """An image that a table names."""
    (place / "scans").mkdir()
    (place / "scans" / name).write_bytes(content)
    (place / "cases.csv").write_text(f"{COLUMNS}\na,xray,{name},40,F,none,rest,CORRECT\n")
    return _prepare(place, "cases.csv")


def options(place: Path, content: bytes) -> Arguments:
    """A YAML file of settings."""
    (place / "recipe.yaml").write_bytes(content)
    _scan(place / "data" / "images")
    (place / "data" / "train.jsonl").write_text(json.dumps(ROW))
    return [*dry_run(place / "data"), "--config", str(place / "recipe.yaml")]


def config(place: Path, content: bytes | None = None, **changed: Any) -> Arguments:
    """`config.json` of a model; `text__x=1` sets a key of text_config."""
    home = model(place)
    raw = json.loads((TINY / "config.json").read_text())
    for name, value in changed.items():
        part, _, key = name.rpartition("__")
        target = raw[f"{part}_config"] if part else raw
        if value is ...:
            del target[key]
        else:
            target[key] = value
    (home / "config.json").write_bytes(json.dumps(raw).encode() if content is None else content)
    return convert(place)


def weights(place: Path, change: Callable[[bytes], bytes]) -> Arguments:
    """`model.safetensors`, from the sound one's bytes."""
    home = model(place)
    (home / "model.safetensors").unlink()
    (home / "model.safetensors").write_bytes(change((TINY / "model.safetensors").read_bytes()))
    return convert(place)


def trained(place: Path, change: Callable[[bytes], bytes]) -> Arguments:
    """The same, loaded to train with instead of converted."""
    weights(place, change)
    _scan(place / "data" / "images")
    (place / "data" / "train.jsonl").write_text(json.dumps(ROW))
    return dry_run(place / "data", place / "model")


def companion(place: Path, name: str, content: bytes) -> Arguments:
    """A file beside the weights: of the tokenizer, the image processor, the chat template."""
    home = model(place)
    (home / name).unlink(missing_ok=True)
    (home / name).write_bytes(content)
    _scan(place / "data" / "images")
    (place / "data" / "train.jsonl").write_text(json.dumps(ROW))
    return dry_run(place / "data", home)


def merged(place: Path, name: str, **changed: Any) -> Arguments:
    """A companion's JSON with other values."""
    return companion(place, name, json.dumps({**json.loads((TINY / name).read_text()), **changed}).encode())


def adapter(place: Path, source: Path = ADAPTER, **files: bytes) -> Arguments:
    """An adapter with other contents of `adapter_config` or its weights; this toolkit's, or PEFT's."""
    home = place / "adapter"
    shutil.copytree(source, home, ignore=shutil.ignore_patterns("*.md"))
    names = {
        "config": "adapter_config.json",
        "own": "adapters.safetensors",
        "peft": "adapter_model.safetensors",
    }
    for name, content in files.items():
        (home / names[name]).write_bytes(content)
    return read_adapter(place, source)


def read_adapter(place: Path, source: Path) -> Arguments:
    """The command that reads an adapter of that kind."""
    home, out = str(place / "adapter"), str(place / "out")
    if source == PEFT:
        return ["import", home, out, "--model", "tiny-medgemma"]
    return ["export", home, out]


def adapter_config(place: Path, source: Path = ADAPTER, **changed: Any) -> Arguments:
    """An adapter whose settings have other values."""
    raw = json.loads((source / "adapter_config.json").read_text())
    kept = {name: value for name, value in {**raw, **changed}.items() if value is not ...}
    return adapter(place, source, config=json.dumps(kept).encode())


def model(place: Path) -> Path:
    """A copy of the embedded model, its weights a second name of the same file."""
    home = place / "model"
    home.mkdir()
    for file in TINY.iterdir():
        if file.suffix == ".safetensors":
            _link(file, home / file.name)
        else:
            shutil.copyfile(file, home / file.name)
    return home


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def convert(place: Path) -> Arguments:
    """Read a model's configuration and weights."""
    return ["convert", str(place / "model"), str(place / "out")]


def dry_run(data: Path, home: Path | str = "tiny-medgemma") -> Arguments:
    """Read a dataset, and a model with its tokenizer."""
    return ["train", "--model", str(home), "--data", str(data), "--dry-run"]


def _prepare(place: Path, name: str) -> Arguments:
    cases, scans, out = (str(place / part) for part in (name, "scans", "out"))
    return ["prepare", cases, "--images", scans, "--output", out, "--val", "0"]


def _scan(folder: Path) -> None:
    folder.mkdir(parents=True)
    Image.new("L", (16, 16), 90).save(folder / "scan.png")
