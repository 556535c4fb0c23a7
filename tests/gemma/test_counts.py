"""Counts against sums worked by hand, FACTS' figures and the arrays of real models."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.gemma import counts
from mlx_medlora.gemma.config import ModelConfig, Quantization
from mlx_medlora.gemma.geometry import GEOMETRIES, known_geometry
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.weightsize import weight_bytes


def test_a_decoder_layer_by_hand(tiny_config: ModelConfig) -> None:
    # width 64, 4 x 16 queries, 2 x 16 keys and values, MLP 96
    through = 64 * 64 + 64 * 64 + 3 * 64 * 96  # q, o, gate, up, down
    keys = 2 * 64 * 32
    assert counts.layer_flops(tiny_config.text, 10, 10) == 2 * 10 * (through + keys)
    assert counts.layer_flops(tiny_config.text, 10, 3) == 2 * (10 * keys + 3 * through)
    assert counts.attention_flops(tiny_config.text, 10, 3) == 2 * 2 * 10 * 3 * 4 * 16
    assert counts.head_flops(tiny_config.text, 3) == 2 * 3 * 64 * 320


def test_the_tower_by_hand(tiny_config: ModelConfig) -> None:
    # 4 x 4 patches of 7 x 7 x 3, width 32, MLP 48, 2 layers, 4 soft tokens
    layer = 2 * 16 * (4 * 32 * 32 + 2 * 32 * 48) + 2 * 2 * 16 * 16 * 32
    assert counts.tower_flops(tiny_config) == 2 * 16 * 147 * 32 + 2 * layer + 2 * 4 * 32 * 64


def test_published_sizes() -> None:
    assert weight_bytes(GEOMETRIES["medgemma-4b"]).parameters == 4_300_079_472
    assert round(weight_bytes(GEOMETRIES["medgemma-27b"]).parameters / 1e9, 1) == 27.4
    assert known_geometry("google/medgemma-27b-text-it") is GEOMETRIES["medgemma-27b-text"]
    assert known_geometry("google/gemma-2b") is None


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_weights_take_what_the_arrays_take(tiny_config: ModelConfig, bits: int | None) -> None:
    packed = None if bits is None else Quantization(bits=bits, group_size=32)  # type: ignore[arg-type]
    model = Gemma3(tiny_config)
    if packed is not None:
        nn.quantize(
            model,
            packed.group_size,
            packed.bits,
            class_predicate=lambda name, m: name.startswith("language_model") and hasattr(m, "to_quantized"),
        )
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    found = weight_bytes(tiny_config.model_copy(update={"quantization": packed}))
    assert found.text + found.tower == sum(array.nbytes for array in arrays.values())
    assert found.tower == sum(a.nbytes for name, a in arrays.items() if not name.startswith("language_model"))


def test_the_published_4b_config_is_the_built_in_one(shared: object) -> None:
    from pathlib import Path

    from mlx_medlora.gemma.config import read_config

    published = read_config(Path(str(shared)) / "medgemma-configs" / "gemma-3-4b-it")
    assert published == GEOMETRIES["medgemma-4b"]
