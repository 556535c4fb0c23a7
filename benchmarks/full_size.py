"""Writes a random checkpoint of MedGemma's exact shape, in the hub's layout, bf16.

    python benchmarks/full_size.py /var/tmp/medgemma-4b-random               # 8.6 GB
    python benchmarks/full_size.py /tmp/tiny --shape tiny
    python benchmarks/full_size.py /tmp/wide --shape 27b --layers 2          # 27B's width, two layers

The numbers are N(0, 0.02), so that a forward stays finite; norms are near what leaves values as they are.
Nothing can be read off such a model but speed and memory. Needs the real tokenizer's files, which the
project may not carry, in ../shared/gemma3-tokenizer or where --tokenizer says; the tiny shape needs none.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.model import build

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_medlora.gemma import names
from mlx_medlora.gemma.shards import Planned, header, split
from mlx_medlora.gemma.tensorfiles import INDEX, SINGLE

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "mlx_medlora" / "assets" / "tiny-medgemma"
TOKENIZER = ROOT.parent / "shared" / "gemma3-tokenizer"
SHARD_BYTES = 5_000_000_000
PERIOD = 3_999_971  # values until they repeat: a prime, so that no two rows of a matrix are the same
TOWER = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "4b": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
    "27b": {
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "query_pre_attn_scalar": 168,
    },
}


def write_checkpoint(
    directory: Path,
    shape: str = "4b",
    *,
    layers: int | None = None,
    tokenizer: Path = TOKENIZER,
    seed: int = 0,
) -> int:
    """Write a random checkpoint into a new directory; return its bytes of weights.

    `shape` is "4b", "27b" or "tiny" (the embedded model's); `layers` keeps only so many text layers.
    Raises FileNotFoundError where the tokenizer's files are not there, FileExistsError for the directory.
    """
    source = TINY if shape == "tiny" else tokenizer
    if not (source / "tokenizer.json").is_file():
        raise FileNotFoundError(f"{source} has no tokenizer.json: give Gemma 3's tokenizer with --tokenizer")
    directory.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".model") and file.name != "config.json":
            shutil.copyfile(file, directory / file.name)
    (directory / "config.json").write_text(json.dumps(config_of(shape, layers), indent=2) + "\n")
    plan = planned(directory)
    groups = split(plan, SHARD_BYTES)
    numbers = Numbers(seed)
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        name = SINGLE if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        with (directory / name).open("wb") as stream:
            stream.write(header(group, "pt"))
            for tensor in group:
                numbers.write(stream, tensor)
        weight_map |= {tensor.name: name for tensor in group}
    total = sum(tensor.bytes for tensor in plan)
    if len(groups) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return total


def config_of(shape: str, layers: int | None) -> dict[str, Any]:
    """`config.json` in the hub's short form, which leaves transformers' defaults out."""
    if shape == "tiny":
        raw: dict[str, Any] = json.loads((TINY / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
        if layers is not None:
            kinds = raw["text_config"]["layer_types"]
            raw["text_config"] |= {"num_hidden_layers": layers, "layer_types": kinds[:layers]}
        return raw
    text = SHAPES[shape] | ({} if layers is None else {"num_hidden_layers": layers})
    scaling = {"factor": 8.0, "rope_type": "linear"}
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 255_999,
        "eoi_token_index": 256_000,
        "eos_token_id": [1, 106],
        "image_token_index": 262_144,
        "mm_tokens_per_image": 256,
        "model_type": "gemma3",
        "text_config": text | {"model_type": "gemma3_text", "rope_scaling": scaling, "sliding_window": 1024},
        "torch_dtype": "bfloat16",
        "vision_config": TOWER,
    }


def planned(directory: Path) -> list[Planned]:
    """Every tensor of the checkpoint whose config.json is in `directory`, in the hub's names and shapes."""
    parameters: dict[str, mx.array] = dict(tree_flatten(build(read_config(directory)).parameters()))
    plan = []
    for name in sorted(parameters):
        shape = tuple(parameters[name].shape)
        if name == names.PATCHES:  # (O, H, W, I) in memory
            shape = (shape[0], shape[3], shape[1], shape[2])
        plan.append(Planned(name, shape, "BF16"))
    return plan


class Numbers:
    """Random bf16 values without end: one block of them, again and again."""

    def __init__(self, seed: int) -> None:
        noise = 0.02 * mx.random.normal((PERIOD,), key=mx.random.key(seed))
        self._around = {mean: _bytes(mean + noise) for mean in (0, 1)}
        self._next = 0

    def write(self, stream: BinaryIO, tensor: Planned) -> None:
        """Write one tensor; LayerNorm's weights are around 1, everything else (1 + w in RMSNorm) around 0."""
        layer_norm = tensor.name.startswith(names.TOWER) and "norm" in tensor.name
        block = self._around[int(layer_norm and tensor.name.endswith(".weight"))]
        for start, stop in self._pieces(prod(tensor.shape)):
            stream.write(block[2 * start : 2 * stop])

    def _pieces(self, count: int) -> Iterator[tuple[int, int]]:
        while count > 0:
            start, self._next = self._next, min(PERIOD, self._next + count)
            yield start, self._next
            count -= self._next - start
            self._next %= PERIOD


def _bytes(values: mx.array) -> memoryview:
    return memoryview(np.array(values.astype(mx.bfloat16).view(mx.uint16))).cast("B")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=[*SHAPES, "tiny"], default="4b")
    parser.add_argument("--layers", type=int, help="text layers, if fewer than the shape has")
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="directory of Gemma 3's tokenizer")
    given = parser.parse_args()
    try:
        total = write_checkpoint(given.directory, given.shape, layers=given.layers, tokenizer=given.tokenizer)
    except OSError as error:
        sys.exit(str(error))
    print(f"{given.directory}: {total / 1e9:.2f} GB of weights, {total // 2:,} parameters")


if __name__ == "__main__":
    main()
