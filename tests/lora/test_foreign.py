"""Adapters that mlx-lm and mlx-vlm write, with scales taken from their own layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx_lm.tuner.dora import DoRALinear
from mlx_lm.tuner.lora import LoRALinear

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.adapter import apply
from mlx_medlora.lora.exchange import export_adapter, import_adapter
from mlx_medlora.lora.formats import detect, read_any
from mlx_medlora.lora.layout import linear_layers, widths

LAYER = "language_model.model.layers.2.self_attn.q_proj"


def fresh(config: ModelConfig) -> Base:
    mx.random.seed(0)
    return build(config).eval()


def theirs(kind: str, linear: nn.Linear) -> tuple[nn.Module, dict[str, Any], tuple[str, ...]]:
    """A layer of the other tool over `linear`, the settings that it saves, and its tensors' endings."""
    parameters = {"rank": 3, "scale": 7.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]}
    if kind == "mlx-vlm":
        vlm = pytest.importorskip("mlx_vlm.trainer.peft.lora", reason="mlx-vlm is not installed")
        return vlm.LoRaLayer(linear, rank=3, alpha=6.0), {"rank": 3, "alpha": 6.0, "dropout": 0.0}, ("A", "B")
    config = {
        "fine_tune_type": "dora" if kind == "dora" else "lora",
        "num_layers": 1,
        "lora_parameters": parameters,
    }
    made = DoRALinear if kind == "dora" else LoRALinear
    endings = ("lora_a", "lora_b", "m") if kind == "dora" else ("lora_a", "lora_b")
    return made.from_base(linear, r=3, scale=7.0), config, endings


@pytest.mark.parametrize("kind", ["mlx-lm", "dora", "mlx-vlm"])
def test_their_layer_and_ours_agree(kind: str, tiny_config: ModelConfig, tmp_path: Path) -> None:
    model = fresh(tiny_config)
    layer, config, endings = theirs(kind, dict(model.named_modules())[LAYER])
    last = endings[1]
    layer[last] = mx.random.normal(layer[last].shape, key=mx.random.key(5))
    if "m" in endings:
        layer["m"] = layer["m"] * 1.5
    tensors = {f"{LAYER}.{ending}": layer[ending] for ending in endings}
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), tensors)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert detect(tmp_path) == ("mlx-vlm" if kind == "mlx-vlm" else "mlx-lm")
    apply(model, read_any(tmp_path, fresh(tiny_config)))
    x = mx.random.normal((2, tiny_config.text.hidden_size), key=mx.random.key(6))
    assert np.allclose(dict(model.named_modules())[LAYER](x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "name", "message"),
    [
        ({"fine_tune_type": "full"}, f"{LAYER}.lora_a", "fine_tune_type is 'full'"),
        ({"hello": 1}, f"{LAYER}.lora_a", "neither this toolkit's, PEFT's, mlx-lm's nor mlx-vlm's"),
        ({"rank": "3", "alpha": 1}, f"{LAYER}.lora_a", "are no numbers to scale by"),
        ({"lora_parameters": {"rank": 3}}, f"{LAYER}.lora_a", "scale is missing"),
        ({"rank": 3, "alpha": 1}, "model.layers.0.c_attn.lora_a", "of no layer of this model"),
        ({"rank": 3, "alpha": 1}, f"{LAYER}.lora_a", "missing: .*lora_b"),
    ],
)
def test_what_does_not_bind_is_refused(
    config: dict[str, Any], name: str, message: str, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    mx.save_safetensors(str(tmp_path / "adapters.safetensors"), {name: mx.zeros((64, 3))})
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        read_any(tmp_path, fresh(tiny_config))


def written_by(tool: str, name: str, directory: Path, base: Path) -> Path:
    """An adapter of one layer of `base`, trained on `name`, as the tool saves it."""
    linear = linear_layers(build(read_config(base)))[LAYER]
    inputs, outputs = widths(linear)
    names = {
        "PEFT": ("lora_A.weight", "lora_B.weight"),
        "mlx-lm": ("lora_a", "lora_b"),
        "mlx-vlm": ("A", "B"),
    }
    first, second = mx.ones((inputs, 3)), mx.ones((3, outputs))
    if tool == "PEFT":
        first, second = first.T, second.T
    prefix = "base_model.model.model." if tool == "PEFT" else ""
    layer = LAYER.replace("language_model.model.", "language_model.") if tool == "PEFT" else LAYER
    pair = zip(names[tool], (first, second), strict=True)
    config: dict[str, Any] = {
        "PEFT": {
            "peft_type": "LORA",
            "r": 3,
            "target_modules": ["language_model.layers.2.self_attn.q_proj"],
            "base_model_name_or_path": name,
        },
        "mlx-lm": {"model": name, "lora_parameters": {"rank": 3, "scale": 2.0, "dropout": 0.0}},
        "mlx-vlm": {"model_path": name, "rank": 3, "alpha": 6.0, "dropout": 0.0},
    }[tool]
    directory.mkdir()
    file = "adapter_model.safetensors" if tool == "PEFT" else "adapters.safetensors"
    mx.save_safetensors(str(directory / file), {f"{prefix}{layer}.{part}": array for part, array in pair})
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory


@pytest.mark.parametrize("tool", ["PEFT", "mlx-lm", "mlx-vlm"])
def test_the_hub_id_of_the_base_is_kept_and_found_in_the_cache(
    tool: str, tiny_medgemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, commit = "google/medgemma-4b-it", "a" * 40
    held = tmp_path / "cache" / "models--google--medgemma-4b-it"
    shutil.copytree(tiny_medgemma, held / "snapshots" / commit)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    adapter = written_by(tool, repo, tmp_path / "theirs", tiny_medgemma)
    done = import_adapter(adapter, tmp_path / "ours")
    assert (done.from_format, done.base) == (tool, repo)
    export_adapter(tmp_path / "ours", tmp_path / "exported")
    assert f"base_model: {repo}\n" in (tmp_path / "exported" / "README.md").read_text()
    config = json.loads((tmp_path / "exported" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == repo


@pytest.mark.parametrize("tool", ["PEFT", "mlx-lm", "mlx-vlm"])
def test_of_a_path_the_last_part_is_kept_and_all_of_it_found(
    tool: str, tiny_medgemma: Path, tmp_path: Path
) -> None:
    base = tmp_path / "somebody" / "models" / "tiny"
    shutil.copytree(tiny_medgemma, base)
    adapter = written_by(tool, str(base), tmp_path / "theirs", tiny_medgemma)
    assert import_adapter(adapter, tmp_path / "ours").base == "tiny"
    assert "somebody" not in (tmp_path / "ours" / "adapter_config.json").read_text()
