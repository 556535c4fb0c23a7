from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.adapter import BaseModelId, load_adapter, read_adapter_config, save_adapter
from mlx_medlora.lora.layers import LoraLinear, attach
from mlx_medlora.lora.settings import LoraSettings

IDS = mx.array([[2, 17, 30, 5, 44]])
BASE = BaseModelId(id="tiny", fingerprint="a" * 64)
SETTINGS = LoraSettings(rank=3, alpha=9, target=("q_proj", "v_proj"))
Q = "language_model.model.layers.0.self_attn.q_proj"
A, B = (f"language_model.model.layers.0.self_attn.q_proj.lora_{side}" for side in "ab")


def base(config: ModelConfig) -> Base:
    mx.random.seed(0)
    return build(config).eval()


def trained(config: ModelConfig) -> Base:
    model = base(config)
    attach(model, SETTINGS)
    for name, array in tree_flatten(model.trainable_parameters()):
        key = mx.random.key(len(name) + array.size)
        model.load_weights([(name, mx.random.normal(array.shape, key=key) * 0.1)], strict=False)
    return model


@pytest.fixture
def adapter(tmp_path: Path, tiny_config: ModelConfig) -> Path:
    save_adapter(tmp_path, trained(tiny_config), SETTINGS, BASE)
    return tmp_path


def test_round_trip(adapter: Path, tiny_config: ModelConfig) -> None:
    model = base(tiny_config)
    bound = load_adapter(model, adapter, fingerprint=BASE.fingerprint)
    assert len(bound) == 2 * tiny_config.text.num_hidden_layers
    assert mx.array_equal(model(IDS), trained(tiny_config)(IDS))
    assert not mx.array_equal(model(IDS), base(tiny_config)(IDS))
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapters.safetensors"]


def test_config_says_what_it_is(adapter: Path) -> None:
    config = read_adapter_config(adapter)
    assert (config.rank, config.alpha, config.target, config.base) == (3, 9.0, ("q_proj", "v_proj"), BASE)
    assert json.loads((adapter / "adapter_config.json").read_text())["format_version"] == 1
    assert "language_model.model.layers.0.self_attn.q_proj" in config.modules


def test_same_values_same_bytes(adapter: Path, tiny_config: ModelConfig, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    save_adapter(again, trained(tiny_config), SETTINGS, BASE)
    for name in ("adapters.safetensors", "adapter_config.json"):
        assert (again / name).read_bytes() == (adapter / name).read_bytes()


def edit_tensors(adapter: Path, edit: Callable[[dict[str, np.ndarray]], None]) -> None:
    tensors = load_file(adapter / "adapters.safetensors")
    edit(tensors)
    save_file(tensors, adapter / "adapters.safetensors")


def poison(tensors: dict[str, np.ndarray]) -> None:
    tensors[B] = tensors[B].copy()
    tensors[B][0, 0] = np.nan


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(A), rf"missing: 1 tensor \({A}\)"),
        (
            lambda t: t.update({"vision.lora_a": t[A]}),
            r"of no layer of this adapter: 1 tensor \(vision.lora_a\)",
        ),
        (
            lambda t: t.update({A: t[A][:, :2].copy()}),
            r"wrong shape: .* is \[64, 2\], expected \[64, 3\]",
        ),
        (poison, rf"NaN or infinity: 1 tensor \({B}\)"),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_tensors_that_do_not_fit_are_refused(
    adapter: Path, tiny_config: ModelConfig, edit: Callable[[Any], None], message: str
) -> None:
    edit_tensors(adapter, edit)
    model = base(tiny_config)
    with pytest.raises(InputError, match=message) as caught:
        load_adapter(model, adapter, fingerprint=BASE.fingerprint)
    assert str(caught.value).startswith(str(adapter / "adapters.safetensors"))
    assert not any(isinstance(module, LoraLinear) for module in model.modules()), "the model was touched"


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 4}, r"rank is 4, but its layers have \[3\]"),
        ({"modules": {Q: {"rank": 3, "alpha": 9}}, "target": ["q_proj"]}, "of no layer of this adapter: 26"),
        ({"modules": {"c_attn": {"rank": 3, "alpha": 9}}, "target": ["c_attn"]}, "not this model's: c_attn"),
        ({"biases": [Q]}, f"not this model's: {Q}"),
        ({"target": ["q_proj"]}, r"target does not name .*layers.0.self_attn.v_proj"),
        ({"target": ["q_proj", "v_proj", "c_attn"]}, "target 'c_attn' names none of its layers"),
        ({"format_version": 2}, "adapter format 2; this release reads format 1"),
        ({"rank": -1}, "rank: .*greater than 0"),
        ({"lora_alpha": 3}, "unknown option 'lora_alpha'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(
    adapter: Path, tiny_config: ModelConfig, changes: dict[str, Any], message: str
) -> None:
    edit_config(adapter, **changes)
    with pytest.raises(InputError, match=message):
        load_adapter(base(tiny_config), adapter, fingerprint=BASE.fingerprint)


def test_a_layer_of_another_rank_than_its_tensor_is_refused(adapter: Path, tiny_config: ModelConfig) -> None:
    modules = json.loads((adapter / "adapter_config.json").read_text())["modules"]
    edit_config(adapter, modules=modules | {Q: {"rank": 4, "alpha": 9}})
    with pytest.raises(InputError, match=r"wrong shape: 2 tensors .* expected \[64, 4\]"):
        load_adapter(base(tiny_config), adapter, fingerprint=BASE.fingerprint)


@pytest.mark.parametrize(
    ("fingerprint", "source", "fits"),
    [("f", None, True), ("s", None, True), ("x", "s", True), ("x", "f", True), ("x", "y", False)],
)
def test_an_adapter_fits_what_its_base_came_from(fingerprint: str, source: str | None, fits: bool) -> None:
    assert BaseModelId(id="tiny", fingerprint="f", source="s").fits(fingerprint, source) is fits


def test_another_base_is_refused(adapter: Path, tiny_config: ModelConfig) -> None:
    with pytest.raises(InputError, match=r"trained on another base .tiny, fingerprint aaaaaaaa") as caught:
        load_adapter(base(tiny_config), adapter, fingerprint="b" * 64)
    assert "bbbbbbbbbbbb" in str(caught.value)


def test_a_model_with_fewer_layers_is_refused(adapter: Path, tiny_config: ModelConfig) -> None:
    text = tiny_config.text.model_copy(
        update={"num_hidden_layers": 6, "layer_types": tiny_config.text.layer_types[:6]}
    )
    with pytest.raises(InputError, match=r"not this model's: .*layers.6"):
        load_adapter(base(tiny_config.model_copy(update={"text": text})), adapter, fingerprint=None)


def test_a_cut_file_is_refused(adapter: Path, tiny_config: ModelConfig) -> None:
    path = adapter / "adapters.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged or cut off"):
        load_adapter(base(tiny_config), adapter, fingerprint=None)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "it has no adapter_config.json"),
        (["adapter_config.json"], "it has no adapters.safetensors"),
        (["adapter_config.json", "adapters.safetensors"], "adapter format None"),
    ],
)
def test_other_directories_are_told_apart(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=message):
        read_adapter_config(tmp_path)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such adapter directory"):
        read_adapter_config(tmp_path / "absent")
