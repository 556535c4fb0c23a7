"""Bases of mixed precisions: fused, they answer as base and adapter do, and load wherever the base does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig, Quantization, published_config
from mlx_medlora.gemma.fingerprint import fingerprint
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.lora import fuse as fusing
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.lora.fuse import fuse
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings

TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj")
IDS = mx.array([[2, 301, 300, 300, 300, 300, 302, 7, 8, 9]])
PIXELS = np.random.default_rng(0).normal(size=(1, 3, 28, 28)).astype(np.float32)
Schemes = dict[str, tuple[int, int] | None]  # bits and group size by a part of the name; None: not packed

MIXED: dict[str, tuple[tuple[int, int], Schemes]] = {
    **{
        f"{bits}/{group} alone": ((bits, group), {}) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)
    },
    "8/32 among 4/32": ((4, 32), {"down_proj": (8, 32)}),
    "an adapted layer 6/32": ((4, 32), {"v_proj": (6, 32)}),
    "6/128 among 4/128": ((4, 128), {"down_proj": (6, 128)}),
    "8/128 among 4/128": ((4, 128), {"q_proj": (8, 128), "gate_proj": (8, 128)}),
    "8/32 looks like 4/64 of twice the width": ((4, 64), {"embed_tokens": (8, 32)}),
    "the same in an adapted layer": ((4, 64), {"down_proj": (8, 32), "o_proj": (8, 32)}),
    "4/64 looks like 8/32 of half the width": ((8, 32), {"embed_tokens": (4, 64), "q_proj": (4, 64)}),
    "every group size": ((4, 64), {"q_proj": (4, 32), "o_proj": (4, 128), "up_proj": (5, 32)}),
    "some not packed": ((4, 32), {"v_proj": None, "embed_tokens": None, "up_proj": (2, 64)}),
    "config.json names another": ((3, 128), {"": (8, 32)}),
}


def wide(config: ModelConfig) -> ModelConfig:
    """Widths that every group size divides."""
    text = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    return config.model_copy(update={"text": config.text.model_copy(update=text)})


def packed_base(directory: Path, config: ModelConfig, usual: tuple[int, int], other: Schemes) -> Path:
    """A seeded fp32 model in mlx-vlm's layout, the text stack's matrices packed as told."""
    config = wide(config).model_copy(
        update={"quantization": Quantization(bits=usual[0], group_size=usual[1])}
    )
    mx.random.seed(5)
    model = build(config)

    def scheme(path: str, module: nn.Module) -> bool | dict[str, int]:
        if not path.startswith("language_model") or not hasattr(module, "to_quantized"):
            return False
        chosen = next((found for part, found in other.items() if part in path), usual)
        return False if chosen is None else {"bits": chosen[0], "group_size": chosen[1]}

    nn.quantize(model, usual[1], usual[0], class_predicate=scheme)
    directory.mkdir()
    tensors = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (directory / "config.json").write_text(json.dumps(published_config(config)))
    return directory


def noisy_adapter(base: Path, directory: Path, settings: LoraSettings) -> Path:
    model = load_base(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.05
        model.load_weights([(name, array + noise)], strict=False)
    directory.mkdir()
    save_adapter(directory, model, settings, BaseModelId(id="packed", fingerprint=fingerprint(base)))
    return directory


def logits(base: Path, adapter: Path | None = None) -> np.ndarray:
    return np.array(load_model(base, adapter)(IDS, mx.array(PIXELS)).astype(mx.float32))


@pytest.mark.parametrize("case", MIXED)
@pytest.mark.parametrize("saved", [(), ("lm_head",)])
def test_fused_answers_as_the_packed_base_and_its_adapter(
    case: str, saved: tuple[str, ...], tiny_config: ModelConfig, tmp_path: Path
) -> None:
    base = packed_base(tmp_path / "base", tiny_config, *MIXED[case])
    adapter = noisy_adapter(
        base, tmp_path / "adapter", LoraSettings(rank=2, target=TARGETS, save_modules=saved)
    )
    wanted = logits(base, adapter)
    assert np.abs(logits(base) - wanted).max() > 1e-2 * np.abs(wanted).max()
    fuse(base, adapter, tmp_path / "fused")
    assert np.abs(logits(tmp_path / "fused") - wanted).max() < 1e-5 * np.abs(wanted).max()
    stored = read_header(tmp_path / "fused" / "model.safetensors")[0]
    assert {entry.dtype for entry in stored.values()} == {"F32"}


def test_a_packed_position_embedding_is_dequantised_as_in_loading(
    tiny_config: ModelConfig, tmp_path: Path
) -> None:
    base = packed_base(tmp_path / "base", tiny_config, (8, 64), {"o_proj": (4, 32)})
    path = base / "model.safetensors"
    tensors = {name: mx.array(np.array(array)) for name, array in mx.load(str(path)).items()}
    parts = mx.quantize(tensors.pop(f"{names.POSITIONS}.weight"), 32, 4)
    tensors |= {
        f"{names.POSITIONS}.{part}": a for part, a in zip(("weight", "scales", "biases"), parts, strict=True)
    }
    mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"})
    adapter = noisy_adapter(base, tmp_path / "adapter", LoraSettings(rank=2, vision=True))
    wanted = logits(base, adapter)
    fuse(base, adapter, tmp_path / "fused")
    assert np.abs(logits(tmp_path / "fused") - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("requantise", [4, 8])
def test_a_mixed_base_is_packed_again(requantise: int, tiny_config: ModelConfig, tmp_path: Path) -> None:
    base = packed_base(tmp_path / "base", tiny_config, (4, 64), {"down_proj": (8, 32), "v_proj": (6, 32)})
    adapter = noisy_adapter(base, tmp_path / "adapter", LoraSettings(rank=2, target=TARGETS))
    fuse(base, adapter, tmp_path / "fused", requantise=requantise, group_size=32)
    wanted = logits(base, adapter)
    assert np.abs(logits(tmp_path / "fused") - wanted).max() < 0.5 * np.abs(wanted).max()


def test_a_base_that_would_not_load_is_refused(tiny_config: ModelConfig, tmp_path: Path) -> None:
    """Scales of another group size than any: said before anything is written, as loading says it."""
    base = packed_base(tmp_path / "base", tiny_config, (4, 32), {})
    adapter = noisy_adapter(base, tmp_path / "adapter", LoraSettings(rank=2, target=("q_proj",)))
    path = base / "model.safetensors"
    tensors = {name: mx.array(np.array(array)) for name, array in mx.load(str(path)).items()}
    name = "language_model.model.layers.2.mlp.up_proj.scales"
    tensors[name] = mx.concatenate([tensors[name]] * 3, axis=1)
    mx.save_safetensors(str(path), tensors, metadata={"format": "mlx"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base"]["fingerprint"] = None
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"do not fit config\.json; wrong shape: 1 tensor") as said:
        load_base(base)
    with pytest.raises(InputError) as caught:
        fuse(base, adapter, tmp_path / "fused")
    assert str(caught.value) == str(said.value)
    assert not (tmp_path / "fused").exists()


def test_a_result_that_would_not_load_gets_no_name(
    tiny_config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = packed_base(tmp_path / "base", tiny_config, (4, 32), {})
    adapter = noisy_adapter(base, tmp_path / "adapter", LoraSettings(rank=2, target=("q_proj",)))
    write = fusing.write_model

    def spoilt(work: Path, *given: object, **more: object) -> object:
        written = write(work, *given, **more)  # type: ignore[arg-type]
        raw = json.loads((work / "config.json").read_text())
        raw["text_config"]["intermediate_size"] = 512
        (work / "config.json").write_text(json.dumps(raw))
        return written

    monkeypatch.setattr(fusing, "write_model", spoilt)
    with pytest.raises(InputError, match="the weights do not fit"):
        fuse(base, adapter, tmp_path / "fused")
    assert sorted(os.listdir(tmp_path)) == ["adapter", "base"]
