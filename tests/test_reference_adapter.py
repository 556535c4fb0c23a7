"""The adapter that comes with the project, in both formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.evaluation.runner import evaluate
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.exchange import export_adapter
from mlx_medlora.lora.load import load

ADAPTERS = Path(__file__).resolve().parents[1] / "adapters"


def test_it_answers_unseen_phantoms(tiny_medgemma: Path, tmp_path: Path) -> None:
    prepare_phantoms(60, tmp_path / "data", seed=77, val=8, test=40)
    model, processor = load(tiny_medgemma, ADAPTERS / "reference")
    found = evaluate(
        model, Encoder(processor, model.config), Dataset.open(tmp_path / "data"), "test", batch_size=20
    )
    assert found.scorecard.accuracy is not None
    assert found.scorecard.accuracy >= 0.9


def test_both_formats_are_one_adapter(tmp_path: Path) -> None:
    export_adapter(ADAPTERS / "reference", tmp_path / "peft")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "peft" / name).read_bytes() == (ADAPTERS / "reference-peft" / name).read_bytes()
    tensors = load_file(ADAPTERS / "reference-peft" / "adapter_model.safetensors")
    assert all(np.isfinite(values).all() for values in tensors.values())
    assert json.loads((ADAPTERS / "reference-peft" / "adapter_config.json").read_text())["r"] == 16
