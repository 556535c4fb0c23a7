"""Every kind of part an adapter may have, on a small random model."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten
from pydantic import ValidationError

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.adapter import BaseModelId, load_adapter, save_adapter
from mlx_medlora.lora.layers import attach, bind
from mlx_medlora.lora.layout import Layout, LoraShape, expected_tensors, find_targets, resolve
from mlx_medlora.lora.settings import LoraSettings

IDS = mx.array([[2, 17, 30, 5, 44]])
Q = "language_model.model.layers.3.self_attn.q_proj"


def fresh(config: ModelConfig) -> Base:
    mx.random.seed(0)
    return build(config).eval()


def disturb(model: Base) -> None:
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.1
        model.load_weights([(name, array + noise)], strict=False)


def test_all_linear_is_peft_s(tiny_config: ModelConfig) -> None:
    found = find_targets(fresh(tiny_config), LoraSettings(target=("all-linear",)))
    vision = tiny_config.vision
    assert vision is not None
    assert len(found) == 7 * tiny_config.text.num_hidden_layers + 6 * vision.num_hidden_layers
    assert not any("head" in name or "projector" in name for name in found)


def test_vision_looks_into_the_tower(tiny_config: ModelConfig) -> None:
    settings = LoraSettings(target=("q_proj",), vision=True)
    names = list(find_targets(fresh(tiny_config), settings))
    assert names[0] == "language_model.model.layers.0.self_attn.q_proj"
    assert names[-1] == "vision_tower.vision_model.encoder.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    "settings",
    [
        LoraSettings(rank=2, dora=True),
        LoraSettings(rank=2, target=("all-linear",), rslora=True),
        LoraSettings(rank=2, save_modules=("embed_tokens", "lm_head")),
        LoraSettings(rank=2, save_modules=("embed_tokens",)),
        LoraSettings(rank=2, save_modules=("lm_head",)),
    ],
    ids=["dora", "all-linear", "both", "embedding", "head"],
)
@pytest.mark.parametrize("bits", [None, 4])
def test_it_begins_as_the_base_and_travels_whole(
    settings: LoraSettings, bits: int | None, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    def base() -> Base:
        model = fresh(tiny_config)
        if bits:
            nn.quantize(model.text, 32, bits, class_predicate=lambda _, m: hasattr(m, "to_quantized"))
        return model

    model = base()
    before = model(IDS)
    attach(model, settings)
    model.eval()
    assert mx.abs(model(IDS) - before).max() < 1e-5
    names = {name: tuple(a.shape) for name, a in tree_flatten(model.trainable_parameters())}
    assert names == expected_tensors(base(), resolve(base(), settings))
    disturb(model)
    save_adapter(tmp_path, model, settings, BaseModelId(id="tiny", fingerprint=None))
    again = base()
    load_adapter(again, tmp_path, fingerprint="any")
    assert mx.array_equal(again(IDS), model(IDS))
    assert not mx.allclose(again(IDS), before)


def test_a_saved_embedding_alone_leaves_the_head_alone(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    attach(model, LoraSettings(rank=2, save_modules=("embed_tokens",)))
    hidden = mx.random.normal((1, tiny_config.text.hidden_size), key=mx.random.key(1))
    before = model.head(hidden)
    model.text.embed_tokens.weight = model.text.embed_tokens.weight + 1
    assert mx.array_equal(model.head(hidden), before)


def test_dora_by_hand() -> None:
    from mlx_medlora.lora.layers import LoraLinear

    linear = nn.Linear(2, 1)
    linear.weight, linear.bias = mx.array([[3.0, 0.0]]), mx.array([0.5])
    layer = LoraLinear(linear, 1, 2.0, 0.0, mx.random.key(0), dora=True)
    assert layer.magnitude.tolist() == [3.0]
    layer.lora_a, layer.lora_b = mx.array([[0.0], [2.0]]), mx.array([[1.0]])
    # the adapted row is (3, 4), of norm 5, taken to length 3: (1.8, 2.4)
    assert np.allclose(layer(mx.array([[1.0, 1.0]])), [[1.8 + 2.4 + 0.5]])


def test_patterns_biases_and_a_bias_on_the_update(tiny_config: ModelConfig) -> None:
    tower = "vision_tower.vision_model.encoder.layers.0.mlp.fc1"
    norm = "vision_tower.vision_model.post_layernorm"
    layout = Layout(
        rank=3,
        target=("q_proj", "fc1"),
        modules={Q: LoraShape(rank=3, alpha=6), tower: LoraShape(rank=5, alpha=10)},
        lora_bias=True,
        biases=(tower, norm),
    )
    model = fresh(tiny_config)
    bind(model, layout)
    shapes = {name: tuple(a.shape) for name, a in tree_flatten(model.trainable_parameters())}
    assert shapes == expected_tensors(fresh(tiny_config), layout)
    assert shapes[f"{tower}.lora_a"][1] == 5
    assert {f"{tower}.linear.bias", f"{norm}.bias", f"{Q}.lora_bias"} < set(shapes)
    before = model(IDS)
    layer = dict(model.named_modules())[Q]
    layer.lora_bias = mx.ones_like(layer.lora_bias)
    assert not mx.allclose(model(IDS), before)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 2}, r"rank is 2, but its layers have \[3\]"),
        ({"target": ("v_proj",)}, "target does not name"),
        ({"target": ("q_proj", "v_proj")}, "'v_proj' names none of its layers"),
        ({"dora": True, "lora_bias": True}, "DoRA has no bias"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(fields: dict[str, object], message: str) -> None:
    whole = {"rank": 3, "target": ("q_proj",), "modules": {Q: {"rank": 3, "alpha": 6}}}
    with pytest.raises(ValidationError, match=message):
        Layout.model_validate(whole | fields)
