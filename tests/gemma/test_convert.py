"""Conversion: what it writes loads everywhere, in little memory, complete or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import packing
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.manifest import MANIFEST
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.gemma.weights import load_weights, open_checkpoint

IDS = [[2, 301, 300, 300, 300, 300, 302, 7, 8, 9]]
PATCHES = "vision_tower.vision_model.embeddings.patch_embedding.weight"


def load(directory: Path) -> Any:
    model = build(read_config(directory))
    load_weights(model, directory)
    return model


def pixels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 3, 28, 28)).astype(np.float32)


def logits(model: Any) -> np.ndarray:
    return np.array(model(mx.array(IDS), mx.array(pixels())).astype(mx.float32))


def test_full_precision_is_the_source_for_us_and_for_transformers(
    hub_checkpoint: Path, torch_model: Any, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import Gemma3ForConditionalGeneration

    report = convert(hub_checkpoint, tmp_path / "out", dtype="float32", shard_bytes=100_000)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 5
    assert np.array_equal(logits(load(tmp_path / "out")), logits(load(hub_checkpoint)))
    again, info = Gemma3ForConditionalGeneration.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    read = again.state_dict()
    for name, tensor in torch_model.state_dict().items():
        if ".head." not in name:
            assert torch.equal(read[name], tensor), name
    assert report.parameters == sum(
        array.size for _, array in tree_flatten(load(hub_checkpoint).parameters())
    )


@pytest.mark.parametrize("bits", [None, 4, 8])
def test_result_loads_in_mlx_vlm(hub_checkpoint: Path, tmp_path: Path, bits: int | None) -> None:
    utils = pytest.importorskip("mlx_vlm.utils")
    convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32, dtype="float32")
    theirs = utils.load_model(tmp_path / "out")
    own = dict(tree_flatten(load(tmp_path / "out").parameters()))
    other = dict(tree_flatten(theirs.parameters()))
    heads = {name for name in other if "lm_head" in name}
    assert set(other) - heads == set(own)
    assert all(mx.array_equal(own[name], other[name]).item() for name in own)
    for name in heads:
        tied = name.replace("language_model.lm_head", "language_model.model.embed_tokens")
        assert mx.array_equal(other[name], other[tied])
    text = mx.array([[2, 7, 8, 9, 10, 11]])
    difference = mx.abs(theirs(text, None).logits - load(tmp_path / "out")(text)).max().item()
    assert difference < 1e-4


@pytest.mark.parametrize("bits", [4, 8])
def test_only_the_text_stack_is_quantised(hub_checkpoint: Path, tmp_path: Path, bits: int) -> None:
    report = convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32, dtype="float32")
    model, full = load(tmp_path / "out"), load(hub_checkpoint)
    packed = {name: module for name, module in model.named_modules() if hasattr(module, "bits")}
    assert len(packed) == 7 * 7 + 1  # seven matrices in each of seven layers, and the embedding
    assert all(name.startswith("language_model.model.") for name in packed)
    before = dict(tree_flatten(full.parameters()))
    for name, array in tree_flatten(model.parameters()):
        if not name.startswith("language_model."):
            assert mx.array_equal(array, before[name]), name
    for name, module in packed.items():
        restored = mx.dequantize(module.weight, module.scales, module.biases, 32, bits)
        step = mx.repeat(mx.abs(module.scales), 32, axis=1)
        error = mx.abs(restored - before[f"{name}.weight"])
        assert mx.all(error <= step).item(), name
        assert 0 < error.mean().item() < 0.5 * step.mean().item(), name
    assert report.settings.bits == bits
    head = open_checkpoint(tmp_path / "out").head
    assert set(head) == {"lm_head.weight", "lm_head.scales", "lm_head.biases"}
    assert open_checkpoint(tmp_path / "out").names()[PATCHES].shape == (32, 7, 7, 3)


@pytest.mark.parametrize("bits", [None, 4])
def test_text_only_models_load_here_and_in_mlx_lm(
    torch_text_model: Any, tmp_path: Path, bits: int | None
) -> None:
    from mlx_lm.utils import load_model

    torch_text_model.save_pretrained(tmp_path / "hub")
    convert(tmp_path / "hub", tmp_path / "out", bits=bits, group_size=32, dtype="float32")
    theirs, _ = load_model(tmp_path / "out")
    text = mx.array([[2, 7, 8, 9, 10, 11]])
    ours = load(tmp_path / "out")
    assert mx.abs(theirs(text) - ours(text)).max().item() < 1e-4
    assert not open_checkpoint(tmp_path / "out").head


def test_half_precision_source_becomes_bfloat16(hub_checkpoint: Path, tmp_path: Path) -> None:
    path = hub_checkpoint / "model.safetensors"
    arrays = {name: array.astype(mx.float16) for name, array in mx.load(str(path)).items()}
    mx.save_safetensors(str(path), arrays)
    convert(hub_checkpoint, tmp_path / "out")
    assert {entry.dtype for entry in open_checkpoint(tmp_path / "out").names().values()} == {"BF16"}
    assert read_config(tmp_path / "out").dtype == "bfloat16"


def test_manifest_covers_every_file(hub_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stale = hub_checkpoint / "tokenizer.json"
    stale.rename(tmp_path / "blob")
    stale.symlink_to(tmp_path / "blob")  # as in the hub's cache
    report = convert(hub_checkpoint, out, bits=8, group_size=32)
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["source"] == str(hub_checkpoint)
    assert manifest["settings"] == {"bits": 8, "group_size": 32, "dtype": "bfloat16"}
    assert set(manifest["files"]) == {path.name for path in out.iterdir()} - {MANIFEST}
    for name, recorded in manifest["files"].items():
        data = (out / name).read_bytes()
        assert recorded == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    companions = {"tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"}
    assert companions <= set(manifest["files"])
    assert not any(path.is_symlink() for path in out.iterdir())
    assert report.notes == ()


def test_two_conversions_have_the_same_bytes(hub_checkpoint: Path, tmp_path: Path) -> None:
    convert(hub_checkpoint, tmp_path / "one", bits=4, group_size=32)
    convert(hub_checkpoint, tmp_path / "two", bits=4, group_size=32)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


@pytest.mark.parametrize("options", [{"bits": 4}, {"bits": 8}, {}, {"dtype": "float32"}])
def test_blocks_of_rows_give_the_bytes_of_whole_tensors(
    hub_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    steps = {}
    for name, values in (("whole", 1 << 40), ("blocks", 1000)):  # 15 of 64-wide rows, which divide nothing
        monkeypatch.setattr(packing, "BLOCK_VALUES", values)
        seen: list[int] = []
        out = tmp_path / name
        convert(
            hub_checkpoint,
            out,
            group_size=32,
            shard_bytes=90_000,
            progress=lambda done, total, seen=seen: seen.append(done),
            **options,
        )
        steps[name] = seen
        assert seen == sorted(set(seen))
        assert seen[-1] == sum(entry.bytes for entry in stored(out))
    assert len(steps["blocks"]) > 2 * len(steps["whole"])
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sum(name.endswith(".safetensors") for name in files) >= 3
    for name in files:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes(), name


def stored(directory: Path) -> list[Any]:
    return [entry for path in directory.glob("*.safetensors") for entry in read_header(path)[0].values()]


@pytest.mark.parametrize("bits", [4, 8])
def test_packed_bytes_are_those_of_mlx_on_the_whole_matrix(
    hub_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    monkeypatch.setattr(packing, "BLOCK_VALUES", 1000)
    convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32)
    source = mx.load(str(hub_checkpoint / "model.safetensors"))
    written = mx.load(str(tmp_path / "out" / "model.safetensors"))
    packed = [name.removesuffix(".scales") for name in written if name.endswith(".scales")]
    assert len(packed) == 7 * 7 + 2
    for module in packed:
        name = module.replace("lm_head", "model.embed_tokens")
        whole = mx.quantize(source[f"{name}.weight"].astype(mx.bfloat16), 32, bits)
        for part, array in zip(("weight", "scales", "biases"), whole, strict=True):
            assert mx.array_equal(written[f"{module}.{part}"], array), (module, part)


def test_progress_and_a_missing_tokenizer(torch_model: Any, tmp_path: Path) -> None:
    torch_model.save_pretrained(tmp_path / "hub")
    seen: list[tuple[int, int]] = []
    report = convert(
        tmp_path / "hub", tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1] > 0
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert "no tokenizer.json" in report.notes[0]
    assert "as bfloat16" in str(report)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 5}, "bits: Input should be 4 or 8"),
        ({"bits": 4, "group_size": 48}, "group_size: Input should be 32, 64 or 128"),
        ({"dtype": "int8"}, "dtype: Input should be 'bfloat16' or 'float32'"),
        ({"dtype": "float16"}, "Gemma 3 overflows it"),
        ({"bits": 4, "group_size": 128}, "a group size of 128 does not divide .* whose rows are 64 long"),
    ],
)
def test_settings_that_cannot_be(
    hub_checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        convert(hub_checkpoint, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be(hub_checkpoint: Path, tmp_path: Path) -> None:
    convert(hub_checkpoint, tmp_path / "packed", bits=4, group_size=32)
    with pytest.raises(InputError, match="already quantised"):
        convert(tmp_path / "packed", tmp_path / "out", bits=8)
    with pytest.raises(InputError, match="not empty"):
        convert(hub_checkpoint, tmp_path / "packed")
    with pytest.raises(InputError, match="no such model directory"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    raw = json.loads((hub_checkpoint / "config.json").read_text())
    raw["text_config"]["intermediate_size"] = 128
    (hub_checkpoint / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"wrong shape: 21 tensors"):
        convert(hub_checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()
