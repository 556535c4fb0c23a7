"""Google's notebook as it runs: what its rows hold and what they are trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cli.app import run
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.processor import Encoder, load_processor
from mlx_medlora.training.examples import build_examples


def test_the_notebook_s_rows(tiny_medgemma: Path, phantom_dataset: Path) -> None:
    config = read_config(tiny_medgemma)
    encoder = Encoder(load_processor(tiny_medgemma), config)
    dataset = Dataset.open(phantom_dataset)
    cases = dataset.cases("val")[:2]
    plain = build_examples(cases, dataset, encoder, config, None)
    theirs = build_examples(cases, dataset, encoder, config, None, supervise="row", double_bos=True)
    for mine, other in zip(plain, theirs, strict=True):
        assert other.ids[:2].tolist() == [config.bos_token_id] * 2
        assert np.array_equal(other.ids[1:], mine.ids)
        trained = set(other.ids[other.supervised].tolist())
        assert {config.boi_token_id, config.eoi_token_id} <= trained  # its mask of the first does nothing
        assert config.image_token_id not in trained
        assert other.ids[other.supervised][-1] == encoder.end_of_turn
        assert other.targets > mine.targets


def test_the_preset_gives_way_to_file_and_flags(
    tiny_medgemma: Path, phantom_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("clip: 0.7\naccumulate: 1\n")
    out = tmp_path / "adapter"
    place = ["--model", str(tiny_medgemma), "--data", str(phantom_dataset), "--output", str(out)]
    command = [
        "train",
        *place,
        "--preset",
        "google-notebook",
        "--config",
        str(recipe),
        "--rank",
        "3",
        "--json",
    ]
    assert run(command) == 0, capsys.readouterr().err
    settings = json.loads((out / "run.json").read_text())["settings"]
    assert (settings["clip"], settings["rank"], settings["lr"], settings["supervise"]) == (
        0.7,
        3,
        2e-4,
        "row",
    )
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["save_modules"] == ["lm_head", "embed_tokens"]
    assert any(name.startswith("vision_tower.") for name in config["modules"])
