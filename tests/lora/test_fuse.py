"""Fused models answer as base and adapter do, in every library that loads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten
from peft import PeftModel
from transformers import Gemma3ForConditionalGeneration

from mlx_medlora.cases.phantoms import draw
from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.gemma import packing
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.processor import Encoder, load_processor
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.lora.exchange import export_adapter
from mlx_medlora.lora.fuse import fuse
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings

KINDS = {
    "card": LoraSettings(),
    "rslora, vision": LoraSettings(rank=3, rslora=True, vision=True),
    "dora": LoraSettings(rank=2, dora=True, target=("all-linear",)),
    "saved": LoraSettings(rank=2, save_modules=("embed_tokens", "lm_head")),
    "saved embedding": LoraSettings(rank=2, save_modules=("embed_tokens",)),
}


def make_adapter(base: Path, directory: Path, settings: LoraSettings, size: float = 0.05) -> Path:
    """An adapter with noise in every part."""
    model = load_model(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * size
        model.load_weights([(name, array + noise)], strict=False)
    directory.mkdir()
    base_id = BaseModelId(id="tiny", fingerprint=fingerprint(base), source=source_fingerprint(base))
    save_adapter(directory, model, settings, base_id)
    return directory


@pytest.fixture(scope="module")
def inputs(tiny_medgemma: Path) -> dict[str, np.ndarray]:
    processor = load_processor(tiny_medgemma)
    encoder = Encoder(processor, load_model(tiny_medgemma).config)
    image = draw("xray", True, np.random.default_rng(3)).convert("RGB")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is shown?"}]}]
    ids = encoder.encode(turns, [image], with_answer=False).ids[None].astype(np.int64)
    return {
        "input_ids": ids,
        "pixel_values": encoder.pixels([image]),
        "token_type_ids": (ids == encoder.config.image_token_id).astype(np.int64),
    }


def ours(model: str | Path, adapter: Path | None, inputs: dict[str, np.ndarray]) -> np.ndarray:
    arrays = {name: mx.array(array) for name, array in inputs.items()}
    return np.array(load_model(model, adapter)(**arrays).astype(mx.float32))


def theirs(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(**{name: torch.tensor(a) for name, a in inputs.items()}).logits.float().numpy()


def distance(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("kind", KINDS)
def test_fused_answers_as_base_and_adapter(
    kind: str, tiny_medgemma: Path, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_medgemma, tmp_path / "adapter", KINDS[kind])
    wanted = ours(tiny_medgemma, adapter, inputs)
    assert distance(ours(tiny_medgemma, None, inputs), wanted) > 1e-2
    report = fuse(tiny_medgemma, adapter, tmp_path / "fused", format="hf")
    assert distance(ours(tmp_path / "fused", None, inputs), wanted) < 1e-5
    model = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "fused", dtype=torch.float32)
    assert distance(theirs(model, inputs), wanted) < 1e-5
    assert report.tied_head is not bool(KINDS[kind].save_modules)
    names = {path.name for path in (tmp_path / "fused").iterdir()}
    assert {"tokenizer.json", "preprocessor_config.json", "chat_template.jinja", "mlx_medlora.json"} <= names


@pytest.mark.parametrize("kind", ["card", "dora"])
def test_fused_equals_peft_s_merge(
    kind: str, tiny_medgemma: Path, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_medgemma, tmp_path / "adapter", KINDS[kind])
    export_adapter(adapter, tmp_path / "peft")
    base = Gemma3ForConditionalGeneration.from_pretrained(tiny_medgemma, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, tmp_path / "peft").merge_and_unload()
    fuse(tiny_medgemma, adapter, tmp_path / "fused")
    fused = Gemma3ForConditionalGeneration.from_pretrained(tmp_path / "fused", dtype=torch.float32)
    for name, wanted in merged.state_dict().items():
        found = fused.state_dict()[name]
        assert torch.abs(found - wanted).max() <= 1e-6 * torch.abs(wanted).max() + 1e-9, name


def test_a_quantised_base_is_dequantised(
    tiny_medgemma: Path, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    convert(tiny_medgemma, tmp_path / "four", bits=4, dtype="float32")
    adapter = make_adapter(tmp_path / "four", tmp_path / "adapter", LoraSettings(rank=4))
    fuse(tmp_path / "four", adapter, tmp_path / "fused")
    wanted = ours(tmp_path / "four", adapter, inputs)
    assert distance(ours(tmp_path / "fused", None, inputs), wanted) < 1e-5
    # what the four bits came from is the adapter's base too: the hub's own weights take it
    fuse(tiny_medgemma, adapter, tmp_path / "whole", format="hf")
    assert distance(ours(tmp_path / "whole", None, inputs), ours(tiny_medgemma, adapter, inputs)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_rows_merge_as_whole_matrices(
    kind: str, tiny_medgemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tiny_medgemma, tmp_path / "four", bits=4, dtype="float32")
    adapter = make_adapter(tmp_path / "four", tmp_path / "adapter", KINDS[kind])
    for name, values in (("whole", 1 << 40), ("blocks", 1000)):
        monkeypatch.setattr(packing, "BLOCK_VALUES", values)
        fuse(tmp_path / "four", adapter, tmp_path / name)
    whole, blocks = (mx.load(str(tmp_path / name / "model.safetensors")) for name in ("whole", "blocks"))
    assert set(whole) == set(blocks)
    for name, wanted in whole.items():
        found = np.array(blocks[name])
        assert np.abs(found - np.array(wanted)).max() <= 1e-6 * np.abs(np.array(wanted)).max(), name


def test_a_fused_model_is_another_base(tiny_medgemma: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tiny_medgemma, tmp_path / "adapter", LoraSettings(rank=2))
    fuse(tiny_medgemma, adapter, tmp_path / "fused")
    with pytest.raises(InputError, match="trained on another base"):
        fuse(tmp_path / "fused", adapter, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_the_hub_s_layout_is_not_packed(tiny_medgemma: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not quantised by MLX"):
        fuse(tiny_medgemma, tmp_path, tmp_path / "out", format="hf", requantise=4)


def test_packing_is_measured_and_may_be_refused(
    tiny_medgemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter(tiny_medgemma, tmp_path / "adapter", LoraSettings(rank=2), size=0.02)
    command = ["fuse", "--model", str(tiny_medgemma), "--adapter", str(adapter), "--requantise", "4"]
    measured: list[dict[str, Any]] = []
    for output, extra, status in (
        ("kept", ["--anyway"], 0),
        ("refused", ["--most-changed", "0"], 1),
    ):
        found = run([*command, "--output", str(tmp_path / output), *extra, "--json"])
        said = capsys.readouterr()
        if output == "kept":
            assert found == 0, said.err
            measured.append(json.loads(said.out)["drift"])
            assert measured[0]["n"] == 40
            assert measured[0]["logits"] > 0
            assert (tmp_path / output / "config.json").is_file()
        else:
            changed = measured[0]["answers_changed"] > 0
            assert found == (status if changed else 0)
            assert (tmp_path / output).exists() is not changed
            assert ("packing changes too much" in said.err) is changed
