"""The dataset card's script names: thin doors with the card's option names and defaults."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mlx_medlora.evaluation.results import Suite

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"


def opened(name: str, *arguments: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_card_s_fine_tuning_command() -> None:
    given = ["--epochs", "3", "--batch-size", "4", "--lr", "2e-4", "--lora-rank", "16", "--lora-alpha=32"]
    assert script("finetune_medgemma_lora").translated(given) == [
        "--model",
        "google/medgemma-4b-it",
        "--data",
        "lora_training",
        "--output",
        "models/medgemma-lora",
        "--epochs",
        "3",
        "--batch-size",
        "4",
        "--lr",
        "2e-4",
        "--rank",
        "16",
        "--alpha=32",
    ]


def test_the_tuned_model_is_tested_on_its_own_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    defaults = script("test_finetuned_medgemma").defaults
    assert defaults([])[:4] == ["--model", "google/medgemma-4b-it", "--adapter", "models/medgemma-lora"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "adapter_config.json").write_text(json.dumps({"base": {"id": "tiny-medgemma"}}))
    for given in (["--adapter", "mine"], ["--adapter=mine"]):
        assert defaults(given) == (
            [
                "--model",
                "tiny-medgemma",
                "--adapter",
                "mine",
                "--data",
                "lora_training",
                "--output",
                "mine-evaluation",
            ]
        )


def test_the_card_s_benchmark_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    translated = script("run_clinical_validation_benchmarks").translated
    rest = ["--output", "models/medgemma-lora-benchmarks", "--data", "lora_training", "--suite"]
    wanted = ["--model", "google/medgemma-4b-it", "--adapter", "models/medgemma-lora", *rest]
    assert translated(["--model", "medgemma-lora"]) == translated([]) == wanted
    there = tmp_path / "models" / "mine"
    there.mkdir(parents=True)
    (there / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny-medgemma"}))
    for given in (["--model", "mine"], ["--model=mine"], ["--model", "models/mine"]):
        found = translated([*given, "--split", "test"])
        assert found[:2] == ["--model", "tiny-medgemma"]
        assert found[3].endswith("models/mine")
        assert found[4:] == ["--output", "models/mine-benchmarks", *rest[2:], "--split", "test"]
    assert translated(["--model", "tiny-medgemma"])[:3] == ["--model", "tiny-medgemma", "--output"]


def test_the_card_s_benchmarks_and_heatmaps(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    for name, place in (("medgemma-lora", "adapters/reference"), ("../lora_training", "lora_training")):
        shutil.copytree(ROOT / place, tmp_path / "models" / name)
    done = opened("run_clinical_validation_benchmarks", "--model", "medgemma-lora", folder=tmp_path)
    assert done.returncode == 0
    assert "text heuristics" in done.stdout
    assert "majority class" in done.stdout
    written = tmp_path / "models" / "medgemma-lora-benchmarks"
    made = Suite.model_validate_json((written / "suite.json").read_text())
    assert set(made.modalities) == {"histopathology", "mri", "ultrasound", "xray"}
    drawn = {file.name: file.read_bytes() for file in (written / "heatmaps").iterdir()}
    assert len(drawn) == 4
    shutil.rmtree(written / "heatmaps")
    done = opened("generate_clinical_validation_heatmaps", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Wrote models/medgemma-lora-benchmarks/heatmaps\n")
    assert {file.name: file.read_bytes() for file in (written / "heatmaps").iterdir()} == drawn
    done = opened("generate_clinical_validation_heatmaps", "gone", folder=tmp_path)
    assert done.returncode == 2
    assert "no such run directory" in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "prepare_lora_dataset",
        "finetune_medgemma_lora",
        "test_finetuned_medgemma",
        "run_clinical_validation_benchmarks",
        "generate_clinical_validation_heatmaps",
    ],
)
def test_each_script_opens_its_command(name: str) -> None:
    done = opened(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: mlx-medlora " in done.stdout


def test_the_bundled_dataset_is_written_where_it_is_missing(tmp_path: Path) -> None:
    for _ in range(2):  # written, then found
        done = opened("prepare_lora_dataset", folder=tmp_path)
        assert (done.returncode, done.stdout) == (0, "lora_training: 16 train, 8 val\n")


@pytest.mark.parametrize("text", ["{", "[1]", '{"base": null}', "{}"])
@pytest.mark.parametrize("name", ["run_clinical_validation_benchmarks", "test_finetuned_medgemma"])
def test_a_damaged_adapter_is_left_to_the_command(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    assert script(name).base_of(tmp_path) == "google/medgemma-4b-it"
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "theirs"}')
    assert script(name).base_of(tmp_path) == "theirs"
