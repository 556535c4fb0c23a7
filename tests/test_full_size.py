"""The random checkpoint of MedGemma's exact shape that benchmarks measure on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import mlx_medlora
from mlx_medlora.gemma.processor import Encoder

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import full_size  # noqa: E402


def test_the_tiny_shape_is_a_model_with_its_processor(tmp_path: Path) -> None:
    total = full_size.write_checkpoint(tmp_path / "made", "tiny", layers=2)
    model, processor = mlx_medlora.load(tmp_path / "made")
    assert total == sum(entry.bytes for entry in full_size.planned(tmp_path / "made"))
    assert len(model.text.layers) == 2
    content = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    encoder = Encoder(processor, model.config)
    ids = encoder.encode([{"role": "user", "content": content}], [image], with_answer=False).ids[None]
    logits = model(mx.array(ids), mx.array(encoder.pixels([image]))).astype(mx.float32)
    assert mx.isfinite(logits).all().item()
    assert logits.std().item() > 1e-3


def test_the_full_shape_is_the_hub_s(shared: Path, tmp_path: Path) -> None:
    index = json.loads(
        (shared / "medgemma-configs" / "gemma-3-4b-it" / "model.safetensors.index.json").read_text()
    )
    (tmp_path / "config.json").write_text(json.dumps(full_size.config_of("4b", None)))
    plan = full_size.planned(tmp_path)
    assert {tensor.name for tensor in plan} == set(index["weight_map"])
    assert sum(tensor.bytes for tensor in plan) == index["metadata"]["total_size"]


def test_no_two_rows_are_the_same(tmp_path: Path) -> None:
    full_size.write_checkpoint(tmp_path / "made", "tiny")
    embedding = mx.load(str(tmp_path / "made" / "model.safetensors"))[
        "language_model.model.embed_tokens.weight"
    ]
    rows = np.array(embedding.astype(mx.float32))
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert rows.std() == pytest.approx(0.02, rel=0.02)


def test_the_real_tokenizer_is_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "full_size.py"), str(tmp_path / "made")]
    done = subprocess.run(
        [*command, "--tokenizer", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path} has no tokenizer.json: give Gemma 3's tokenizer with --tokenizer\n"
    assert not (tmp_path / "made").exists()
