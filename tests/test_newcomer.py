"""The fidelity page's two paths: train in PEFT and use it here; train here and use it in PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cli.app import run
from mlx_medlora.gemma.processor import load_processor
from mlx_medlora.lora.load import load_model


def said(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    status = run([*map(str, arguments), "--json"])
    shown = capsys.readouterr()
    assert status == 0, shown.err
    found: dict[str, Any] = json.loads(shown.out)
    return found


def inputs(model: Path, data: Path) -> dict[str, np.ndarray]:
    """The first validation case as transformers' processor reads it."""
    dataset = Dataset.open(data)
    case = dataset.cases("val")[0]
    turns = conversation(case, with_answer=True)
    for turn in turns:
        for piece in turn["content"]:
            if piece["type"] == "image":
                piece["image"] = open_image(dataset.image_files(case)[0])
    processor = load_processor(model)
    found = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="np")
    return {key: found[key] for key in ("input_ids", "pixel_values", "token_type_ids")}


def distance(model: Any, base: Path, adapter: Path, arrays: dict[str, np.ndarray]) -> float:
    with torch.no_grad():
        wanted = model.eval()(**{name: torch.tensor(array) for name, array in arrays.items()}).logits.numpy()
    found = load_model(base, adapter)(**{name: mx.array(array) for name, array in arrays.items()})
    return float(np.abs(np.array(found) - wanted).max() / np.abs(wanted).max())


def test_train_in_peft_and_use_it_here(
    tiny_medgemma: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = inputs(tiny_medgemma, phantom_dataset)
    base = AutoModelForImageTextToText.from_pretrained(tiny_medgemma, dtype=torch.float32)
    targets = r".*language_model.*\.(q_proj|v_proj|o_proj)"
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=targets))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batch = {name: torch.tensor(array) for name, array in arrays.items()}
    for _ in range(3):
        model(**batch, labels=batch["input_ids"]).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "from-peft")

    adapter = tmp_path / "adapter"
    done = said(capsys, "import", tmp_path / "from-peft", adapter, "--model", tiny_medgemma)
    assert (done["layers"], done["tensors"]) == (18, 36)
    data, out = phantom_dataset, tmp_path / "runs"
    card = said(
        capsys, "eval", "--model", tiny_medgemma, "--adapter", adapter, "--data", data, "--output", out
    )
    assert card["n"] == 8
    assert distance(model, tiny_medgemma, adapter, arrays) < 1e-5


def test_train_here_and_use_it_in_peft(
    tiny_medgemma: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, exported = tmp_path / "adapter", tmp_path / "exported"
    train = ("train", "--model", tiny_medgemma, "--data", phantom_dataset, "--output", adapter)
    said(capsys, *train, "--epochs", "1", "--lr", "2e-3")
    said(capsys, "export", adapter, exported)
    card = (exported / "README.md").read_text()
    assert "| train | 24 |" in card
    assert "| validation loss |" in card

    base = AutoModelForImageTextToText.from_pretrained(tiny_medgemma, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, exported)
    assert distance(model, tiny_medgemma, adapter, inputs(tiny_medgemma, phantom_dataset)) < 1e-5
