"""A model with its adapter put aside is its base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.lora.switch import adapter_off, can_switch

IDS = mx.array([[2, 5, 9, 12, 40]])
Make = Callable[..., Base]


@pytest.fixture
def adapted(tiny_config: ModelConfig) -> Make:
    def make(**settings: object) -> Base:
        mx.random.seed(3)
        model = build(tiny_config)
        model.eval()
        attach(model, LoraSettings.model_validate({"rank": 2, **settings}), seed=1)
        return model

    return make


def moved(model: Base) -> None:
    """Give the adapter an effect."""
    for name, part in model.named_modules():
        if "lora_b" in part:
            part.lora_b = mx.random.normal(part.lora_b.shape, key=mx.random.key(len(name)))


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"target": ("all-linear",)}])
def test_off_is_the_base_bit_for_bit_and_on_is_back(
    adapted: Make, tiny_config: ModelConfig, settings: dict[str, object]
) -> None:
    mx.random.seed(3)
    base = build(tiny_config)
    model = adapted(**settings)
    moved(model)
    tuned = model(IDS)
    assert can_switch(model)
    with adapter_off(model):
        assert mx.array_equal(model(IDS), base(IDS))
    assert mx.array_equal(model(IDS), tuned)
    assert not mx.allclose(tuned, base(IDS), atol=1e-3)


def test_an_error_within_puts_the_adapter_back(adapted: Make) -> None:
    model = adapted()
    moved(model)
    tuned = model(IDS)
    with pytest.raises(KeyError), adapter_off(model):
        raise KeyError
    assert mx.array_equal(model(IDS), tuned)


def test_what_replaced_parts_of_the_base_is_refused(adapted: Make) -> None:
    model = adapted(save_modules=("lm_head",))
    assert not can_switch(model)
    with pytest.raises(ValueError, match="whole modules or biases"), adapter_off(model):
        pass


def test_a_loaded_adapter_switches(tiny_medgemma: Path) -> None:
    reference = Path(__file__).resolve().parents[2] / "adapters" / "reference"
    model, base = load_model(tiny_medgemma, reference), load_model(tiny_medgemma)
    assert can_switch(model)
    with adapter_off(model):
        assert mx.array_equal(model(IDS), base(IDS))
