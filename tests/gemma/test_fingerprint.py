from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.gemma.config import ModelConfig, published_config
from mlx_medlora.gemma.fingerprint import fingerprint, source_name
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.names import PATCHES

Tensors = dict[str, mx.array]


@pytest.fixture(scope="module")
def tensors(tiny_config: ModelConfig) -> Tensors:
    mx.random.seed(0)
    return dict(tree_flatten(build(tiny_config).parameters()))


def write(directory: Path, config: ModelConfig, *shards: Tensors) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(published_config(config)))
    for index, shard in enumerate(shards, start=1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        mx.save_safetensors(str(directory / name), shard, metadata={"format": "mlx"})
    return directory


def test_the_layout_does_not_matter(tensors: Tensors, tiny_config: ModelConfig, tmp_path: Path) -> None:
    names = sorted(tensors)
    hub = {name: array for name, array in tensors.items() if name != PATCHES}
    hub[PATCHES] = mx.contiguous(tensors[PATCHES].transpose(0, 3, 1, 2))
    new = {name.replace("vision_tower.vision_model.", "vision_tower."): array for name, array in hub.items()}
    prefixed = {f"model.{name}": array for name, array in hub.items()}
    headed = {**tensors, "language_model.lm_head.weight": tensors["language_model.model.embed_tokens.weight"]}
    halves = [{name: tensors[name] for name in part} for part in (names[:30], names[30:])]
    found = {
        fingerprint(write(tmp_path / str(index), tiny_config, *shards))
        for index, shards in enumerate([[tensors], [hub], [new], [prefixed], [headed], halves])
    }
    assert len(found) == 1


@pytest.mark.parametrize(
    "part", ["self_attn.q_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight"]
)
def test_other_weights_differ(tensors: Tensors, tiny_config: ModelConfig, tmp_path: Path, part: str) -> None:
    name = f"language_model.model.layers.3.{part}"
    changed = {**tensors, name: tensors[name] + 0.01}
    one = fingerprint(write(tmp_path / "one", tiny_config, tensors))
    assert one != fingerprint(write(tmp_path / "two", tiny_config, changed))


def test_other_dtypes_and_geometries_differ(
    tensors: Tensors, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    half = {name: array.astype(mx.bfloat16) for name, array in tensors.items()}
    text = tiny_config.text.model_copy(update={"rope_factor": 4.0})
    stretched = tiny_config.model_copy(update={"text": text})
    found = {
        fingerprint(write(tmp_path / "plain", tiny_config, tensors)),
        fingerprint(write(tmp_path / "half", tiny_config, half)),
        fingerprint(write(tmp_path / "stretched", stretched, tensors)),
    }
    assert len(found) == 3


def test_the_eos_tokens_of_a_rewritten_config_do_not_matter(
    tensors: Tensors, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    other = tiny_config.model_copy(update={"eos_token_ids": (1,)})
    one = fingerprint(write(tmp_path / "one", tiny_config, tensors))
    assert one == fingerprint(write(tmp_path / "two", other, tensors))


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        ({"source": "google/medgemma-4b-it", "source_fingerprint": "f"}, "google/medgemma-4b-it"),
        ({"source": "/home/somebody/medgemma", "source_fingerprint": "f"}, "medgemma"),
        ({"source": "downloads/of/medgemma", "source_fingerprint": "f"}, "medgemma"),
        ({"source": "tiny-medgemma", "adapter": {}}, None),
    ],
)
def test_a_converted_model_is_called_by_its_source(
    manifest: dict[str, object], name: str | None, tmp_path: Path
) -> None:
    (tmp_path / "mlx_medlora.json").write_text(json.dumps(manifest))
    assert source_name(tmp_path) == name
