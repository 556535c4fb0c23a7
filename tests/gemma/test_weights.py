"""Reading checkpoints: every layout binds every tensor, and damage is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.gemma.weights import load_weights, open_checkpoint

EMBEDDING = "language_model.model.embed_tokens.weight"
PATCHES = "vision_tower.vision_model.embeddings.patch_embedding.weight"


def load(directory: Path, dtype: mx.Dtype | None = None) -> Any:
    model = build(read_config(directory))
    load_weights(model, directory, dtype)
    return model


def tensors(model: Any) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in tree_flatten(model.parameters())}


def same_weights(model: Any, torch_model: Any) -> bool:
    """Compare with transformers' own tensors, under transformers' names."""
    found = tensors(model)
    state = {
        name.removeprefix("model."): tensor.detach().numpy()
        for name, tensor in torch_model.named_parameters()
        if "vision_tower.head." not in name  # SigLIP's pooling head, which Gemma 3 does not use
    }
    state.pop("lm_head.weight", None)
    assert len(found) == len(state)
    for name, array in found.items():
        bare = name.removeprefix("model.").replace("language_model.model.", "language_model.")
        if name == PATCHES:
            array = array.transpose(0, 3, 1, 2)
        bare = bare if bare in state else bare.replace("vision_tower.vision_model.", "vision_tower.")
        if not np.array_equal(array, state[bare]):
            return False
    return True


def edit(directory: Path, change: Callable[[dict[str, mx.array]], None], mark: str = "pt") -> None:
    path = directory / "model.safetensors"
    arrays = dict(mx.load(str(path)))
    mx.eval(arrays)
    change(arrays)
    mx.save_safetensors(str(path), arrays, metadata={"format": mark})


@pytest.mark.parametrize("options", [{}, {"save_original_format": False}, {"max_shard_size": "100KB"}])
def test_transformers_layouts(torch_model: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    torch_model.save_pretrained(tmp_path, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == (12 if "max_shard_size" in options else 1)
    assert same_weights(load(tmp_path), torch_model)


def test_hub_layout_and_its_pooling_head(hub_checkpoint: Path, torch_model: Any) -> None:
    edit(
        hub_checkpoint,
        lambda arrays: arrays.update({"vision_tower.vision_model.head.probe": mx.ones((1, 1, 32))}),
    )
    assert same_weights(load(hub_checkpoint), torch_model)


def test_shards_without_an_index(torch_model: Any, tmp_path: Path) -> None:
    torch_model.save_pretrained(tmp_path, max_shard_size="100KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    assert same_weights(load(tmp_path), torch_model)
    (tmp_path / "model-00003-of-00012.safetensors").unlink()
    with pytest.raises(InputError, match="1 of 12 weight files are not there: shard 3"):
        load(tmp_path)


def test_mlx_layout_with_a_second_head(hub_checkpoint: Path, torch_model: Any) -> None:
    def to_mlx(arrays: dict[str, mx.array]) -> None:
        arrays[PATCHES] = mx.contiguous(arrays[PATCHES].transpose(0, 2, 3, 1))
        arrays["language_model.lm_head.weight"] = arrays[EMBEDDING]

    edit(hub_checkpoint, to_mlx, mark="mlx")
    checkpoint = open_checkpoint(hub_checkpoint)
    assert list(checkpoint.head) == ["lm_head.weight"]
    assert checkpoint.names()[PATCHES].shape == (32, 7, 7, 3)
    assert same_weights(load(hub_checkpoint), torch_model)


@pytest.mark.parametrize("mark", ["pt", "mlx"])
def test_patches_as_wide_as_their_channels(hub_checkpoint: Path, mark: str) -> None:
    """With 3 x 3 patches of 3 channels both layouts have one shape; the writer's mark decides."""
    raw = json.loads((hub_checkpoint / "config.json").read_text())
    raw["vision_config"] |= {"patch_size": 3, "image_size": 12}
    (hub_checkpoint / "config.json").write_text(json.dumps(raw))
    patches = mx.random.normal((32, 3, 3, 3))
    edit(hub_checkpoint, lambda arrays: arrays.update({PATCHES: patches}), mark=mark)
    read = open_checkpoint(hub_checkpoint).tensor(PATCHES)
    assert mx.array_equal(read, patches if mark == "mlx" else patches.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("prefix", ["", "language_model."])
def test_text_only(torch_text_model: Any, tmp_path: Path, prefix: str) -> None:
    torch_text_model.save_pretrained(tmp_path)

    def rename(arrays: dict[str, mx.array]) -> None:
        for name in list(arrays):
            arrays[prefix + name] = arrays.pop(name)

    edit(tmp_path, rename)
    assert same_weights(load(tmp_path), torch_text_model)


def test_tensors_can_be_read_again(hub_checkpoint: Path) -> None:
    checkpoint = open_checkpoint(hub_checkpoint)
    first, second = checkpoint.tensor(EMBEDDING), checkpoint.tensor(EMBEDDING)
    assert mx.array_equal(first, second)


def quantize(directory: Path, chosen: Callable[[str, mx.array], dict[str, int] | None]) -> None:
    def change(arrays: dict[str, mx.array]) -> None:
        for name in list(arrays):
            scheme = chosen(name, arrays[name])
            if scheme is not None:
                parts = mx.quantize(arrays.pop(name), **scheme)
                module = name.removesuffix(".weight")
                arrays |= dict(
                    zip((f"{module}.{part}" for part in ("weight", "scales", "biases")), parts, strict=True)
                )

    edit(directory, change)
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(raw | {"quantization": {"bits": 4, "group_size": 32}}))


def test_modules_are_quantised_where_scales_exist(hub_checkpoint: Path, torch_model: Any) -> None:
    """Mixed bits, a quantised vision tower with its position embedding, and the rest as it was."""

    def chosen(name: str, array: mx.array) -> dict[str, int] | None:
        if "down_proj" in name:
            return {"bits": 8, "group_size": 32}
        if (
            "position_embedding" in name
            or "embed_tokens" in name
            or "vision_model.encoder.layers.0.mlp.fc1.w" in name
        ):
            return {"bits": 4, "group_size": 32}
        return None

    full = load(hub_checkpoint)
    quantize(hub_checkpoint, chosen)
    model = load(hub_checkpoint)
    kinds = {
        name: (module.bits, module.group_size)
        for name, module in model.named_modules()
        if hasattr(module, "bits")
    }
    assert kinds["language_model.model.layers.0.mlp.down_proj"] == (8, 32)
    assert kinds["language_model.model.embed_tokens"] == (4, 32)
    assert kinds["vision_tower.vision_model.encoder.layers.0.mlp.fc1"] == (4, 32)
    assert len(kinds) == 9
    ids = mx.array([[2, 301, 300, 300, 300, 300, 302, 7, 8]])
    pixels = mx.random.normal((1, 3, 28, 28), key=mx.random.key(0))
    error = mx.abs(model(ids, pixels) - full(ids, pixels)).max() / mx.abs(full(ids, pixels)).max()
    assert 0 < error.item() < 0.5


def test_quantised_weights_need_their_config(hub_checkpoint: Path) -> None:
    quantize(
        hub_checkpoint, lambda name, _: {"bits": 4, "group_size": 32} if "q_proj.weight" in name else None
    )
    raw = json.loads((hub_checkpoint / "config.json").read_text())
    raw.pop("quantization")
    (hub_checkpoint / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match="there is no `quantization` here"):
        load(hub_checkpoint)


def test_untied_head_is_refused(hub_checkpoint: Path) -> None:
    edit(hub_checkpoint, lambda arrays: arrays.update({"lm_head.weight": arrays[EMBEDDING] + 1}))
    with pytest.raises(InputError, match=r"lm_head.weight.*is not a copy of the embedding"):
        load(hub_checkpoint)


def test_half_precision_needs_a_dtype(hub_checkpoint: Path) -> None:
    def halve(arrays: dict[str, mx.array]) -> None:
        arrays |= {name: array.astype(mx.float16) for name, array in arrays.items()}

    edit(hub_checkpoint, halve)
    with pytest.raises(InputError, match=r"132 tensors \(.* and 128 more\) are fp16"):
        load(hub_checkpoint)
    assert load(hub_checkpoint, mx.float32).dtype == mx.float32
    assert load(hub_checkpoint, mx.bfloat16).dtype == mx.bfloat16
    with pytest.raises(InputError, match="float16; use float32 or bfloat16"):
        load(hub_checkpoint, mx.float16)


def test_missing_unknown_and_misshapen_tensors_are_named(hub_checkpoint: Path) -> None:
    def spoil(arrays: dict[str, mx.array]) -> None:
        arrays.pop("language_model.model.norm.weight")
        arrays["language_model.model.layers.0.self_attn.sinks"] = mx.zeros((4,))
        arrays["multi_modal_projector.mm_input_projection_weight"] = mx.zeros((32, 63))

    edit(hub_checkpoint, spoil)
    with pytest.raises(InputError) as caught:
        load(hub_checkpoint)
    message = str(caught.value)
    assert "missing: 1 tensor (language_model.model.norm.weight)" in message
    assert "not Gemma 3's: 1 tensor (language_model.model.layers.0.self_attn.sinks)" in message
    assert "mm_input_projection_weight is F32 [32, 63], expected [32, 64]" in message


def test_a_tensor_twice(hub_checkpoint: Path) -> None:
    edit(hub_checkpoint, lambda arrays: arrays.update({"model.language_model.norm.weight": mx.zeros((64,))}))
    with pytest.raises(InputError, match=r"norm.weight is there twice"):
        load(hub_checkpoint)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[9:12] = b"\xff{{"
    path.write_bytes(bytes(data))


def overlong_header(path: Path) -> None:
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def eight_bit_floats(path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"ab")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged or cut off"),
        (empty, "the file is empty"),
        (garble, "damaged or cut off"),
        (overlong_header, "damaged or cut off"),
        (pointer, "a git-lfs pointer"),
        (eight_bit_floats, "tensor x is F8_E4M3; expected BF16 or F32"),
    ],
)
def test_damaged_files_are_named(hub_checkpoint: Path, damage: Callable[[Path], None], message: str) -> None:
    path = hub_checkpoint / "model.safetensors"
    damage(path)
    with pytest.raises(InputError, match=message) as caught:
        load(hub_checkpoint)
    assert caught.value.path == str(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "model.safetensors", "b": "gone.safetensors"}}, "names 1 of 2 weight files"),
        (
            {"weight_map": {"a.weight": "model.safetensors"}},
            r"1 tensor \(a.weight\) named here are in no file",
        ),
        ({"weight_map": {"a": "../model.safetensors"}}, "no .safetensors name"),
        ({"weight_map": {"a": "model.bin"}}, "no .safetensors name"),
        ({"weight_map": []}, "non-empty weight_map"),
        ([], "non-empty weight_map"),
    ],
)
def test_bad_indexes(hub_checkpoint: Path, index: Any, message: str) -> None:
    (hub_checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=message):
        open_checkpoint(hub_checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", r"Python pickles \(pytorch_model.bin\)"),
        ("model.pt", r"Python pickles \(model.pt\)"),
        ("model.gguf", "GGUF"),
        ("notes.txt", "no weights to load"),
        ("adapter_model.safetensors", "no weights to load"),
    ],
)
def test_other_weights_are_refused_by_name(hub_checkpoint: Path, name: str, message: str) -> None:
    shutil.move(hub_checkpoint / "model.safetensors", hub_checkpoint / name)
    with pytest.raises(InputError, match=message):
        load(hub_checkpoint)


def test_no_directory(hub_checkpoint: Path, tmp_path: Path) -> None:
    model = build(read_config(hub_checkpoint))
    with pytest.raises(InputError, match="no such model directory"):
        load_weights(model, tmp_path / "gone")


@pytest.mark.parametrize("length", [0x0480, 0x0280, 0x0580])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    content = length.to_bytes(8, "little") + text.ljust(length) + b"\0" * 4
    (tmp_path / "x.safetensors").write_bytes(content)
    assert list(read_header(tmp_path / "x.safetensors")[0]) == ["a"]
