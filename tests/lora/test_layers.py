from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.layers import LoraLinear, attach
from mlx_medlora.lora.layout import find_targets, widths
from mlx_medlora.lora.settings import LoraSettings

IDS = mx.array([[2, 17, 30, 5, 44, 9, 71, 8]])


def fresh(config: ModelConfig, seed: int = 3) -> Base:
    mx.random.seed(seed)
    return build(config).eval()


def fill_b(model: Base) -> None:
    """Give every lora_b values, as training would."""
    for index, (_, module) in enumerate(adapted(model)):
        module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(index)) * 0.05


def adapted(model: Base) -> list[tuple[str, LoraLinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]


def merge(model: Base) -> None:
    """Write W + scale * (A B)^T into each layer, by hand, and switch the update off."""
    for _, module in adapted(model):
        update = np.array(module.lora_a) @ np.array(module.lora_b) * module.scale  # (in, out)
        if isinstance(module.linear, nn.QuantizedLinear):
            module.linear = dequantized(module.linear)
        module.linear.weight = module.linear.weight + mx.array(update.T)
        module.lora_b = mx.zeros_like(module.lora_b)


def dequantized(linear: nn.QuantizedLinear) -> nn.Linear:
    weight = mx.dequantize(
        linear.weight, linear.scales, linear.biases, group_size=linear.group_size, bits=linear.bits
    )
    plain = nn.Linear(*weight.shape[::-1], bias=False)
    plain.weight = weight
    return plain


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("target", [("q_proj", "v_proj", "o_proj"), ("down_proj", "gate_proj")])
def test_forward_equals_the_merged_weights(
    tiny_config: ModelConfig, rslora: bool, target: tuple[str, ...]
) -> None:
    model = fresh(tiny_config)
    attach(model, LoraSettings(rank=4, alpha=10, target=target, rslora=rslora))
    base = model(IDS)
    fill_b(model)
    beside = model(IDS)
    merge(model)
    assert mx.abs(beside - base).max().item() > 1e-2
    np.testing.assert_allclose(np.array(beside), np.array(model(IDS)), atol=2e-5)


def test_it_starts_exactly_as_the_base(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    before = model(IDS)
    attach(model, LoraSettings())
    assert mx.array_equal(before, model(IDS))


def test_only_the_adapter_trains_and_only_in_the_language_model(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    names = attach(model, LoraSettings(rank=2))
    trained = dict(tree_flatten(model.trainable_parameters()))
    assert sorted(trained) == sorted(f"{name}.lora_{side}" for name in names for side in "ab")
    assert len(names) == 3 * tiny_config.text.num_hidden_layers
    assert all(name.startswith("language_model.model.layers.") for name in names)
    assert all(array.dtype == mx.float32 for array in trained.values())


def test_a_text_only_model_is_adapted_too(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config.model_copy(update={"vision": None}))
    names = attach(model, LoraSettings(target=("q_proj",)))
    assert names == [f"model.layers.{i}.self_attn.q_proj" for i in range(tiny_config.text.num_hidden_layers)]


def test_over_a_quantised_base(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    nn.quantize(model.language_model, group_size=32, bits=8)
    before = model(IDS)
    attach(model, LoraSettings(rank=4, target=("q_proj", "down_proj")))
    assert mx.array_equal(before, model(IDS))
    shapes = {name.rpartition(".")[2]: widths(module.linear) for name, module in adapted(model)}
    text = tiny_config.text
    assert shapes["q_proj"] == (text.hidden_size, text.num_attention_heads * text.head_dim)
    assert shapes["down_proj"] == (text.intermediate_size, text.hidden_size)
    fill_b(model)
    beside = model(IDS)
    merge(model)
    np.testing.assert_allclose(np.array(beside), np.array(model(IDS)), atol=1e-4)


def test_over_bf16_it_computes_in_bf16_and_stays_fp32(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    model.set_dtype(mx.bfloat16)
    attach(model, LoraSettings(rank=2))
    fill_b(model)
    assert model(IDS).dtype == mx.bfloat16
    assert {array.dtype for _, array in tree_flatten(model.trainable_parameters())} == {mx.float32}


def test_start_values_are_pefts(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    attach(model, LoraSettings(rank=16), seed=1)
    for _, module in adapted(model):
        inputs, _ = widths(module.linear)
        bound = inputs**-0.5
        a = np.array(module.lora_a)
        assert np.abs(a).max() <= bound
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert not np.array(module.lora_b).any()
    first, second = (np.array(module.lora_a) for _, module in adapted(model)[:2])
    assert first.shape != second.shape or not np.array_equal(first, second)


def test_the_seed_decides_the_start_values(tiny_config: ModelConfig) -> None:
    def start(seed: int) -> np.ndarray:
        model = fresh(tiny_config)
        attach(model, LoraSettings(rank=2), seed=seed)
        return np.array(adapted(model)[0][1].lora_a)

    assert np.array_equal(start(5), start(5))
    assert not np.array_equal(start(5), start(6))


def test_dropout_acts_in_training_alone(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    attach(model, LoraSettings(rank=4, dropout=0.5))
    fill_b(model)
    quiet = model.eval()(IDS)
    assert mx.array_equal(quiet, model(IDS))
    model.train()
    assert not mx.array_equal(model(IDS), model(IDS))


def test_dropout_keeps_the_mean() -> None:
    linear = nn.Linear(64, 1, bias=False)
    linear.weight = mx.zeros((1, 64))
    layer = LoraLinear(linear, 1, 1.0, 0.25, mx.random.key(0))
    layer.lora_a, layer.lora_b = mx.ones((64, 1)) / 64, mx.ones((1, 1))
    mx.random.seed(0)
    assert layer(mx.ones((4000, 64))).mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("target", "count"), [("self_attn.q_proj", 7), ("layers.2.self_attn.q_proj", 1), ("mlp.up_proj", 7)]
)
def test_a_target_is_the_end_of_a_name(tiny_config: ModelConfig, target: str, count: int) -> None:
    assert len(find_targets(fresh(tiny_config), LoraSettings(target=(target,)))) == count


@pytest.mark.parametrize("target", ["qproj", "proj", "fc1", "embed_tokens"])
def test_a_target_that_names_nothing_is_refused(tiny_config: ModelConfig, target: str) -> None:
    with pytest.raises(InputError, match=repr(target)) as caught:
        attach(fresh(tiny_config), LoraSettings(target=("q_proj", target)))
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in (caught.value.hint or "")


def test_a_second_adapter_is_refused(tiny_config: ModelConfig) -> None:
    model = fresh(tiny_config)
    attach(model, LoraSettings())
    with pytest.raises(InputError, match="carries an adapter already"):
        attach(model, LoraSettings())
