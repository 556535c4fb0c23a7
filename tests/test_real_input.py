"""Real images, the real tokenizer, MedGemma's real vision geometry, through the commands."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.cli.app import run
from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig, published_config
from mlx_medlora.gemma.model import Gemma3

FINDING = {"positive": "Suspicious focal abnormality", "negative": "No focal abnormality"}
TREATMENT = {
    ("chest_xray", True): "Start empirical antibiotics for pneumonia",
    ("histopathology", True): "Oncological resection and staging",
    ("mri", True): "Neurosurgical referral and dexamethasone",
    ("ultrasound", True): "Core needle biopsy",
}


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    status = run([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    found = json.loads(said.out)
    assert isinstance(found, dict)
    return found


def write_table(shared: Path, path: Path, per_cell: int) -> list[dict[str, str]]:
    """A clinician's CSV over the real images: half of each cell is treated as its image asks, half not."""
    with (shared / "real-images" / "SOURCES.csv").open(newline="") as stream:
        sources = list(csv.DictReader(stream))
    rows: list[dict[str, str]] = []
    taken: dict[tuple[str, str], int] = {}
    for source in sources:
        cell = (source["modality"], source["cls"])
        taken[cell] = number = taken.get(cell, 0) + 1
        if number > per_cell:
            continue
        wrong = number % 2 == 0
        treated = (source["cls"] == "positive") != wrong
        rows.append(
            {
                "id": f"{cell[0]}-{cell[1]}-{number}",
                "modality": source["modality"],
                "image": source["file"],
                "age": str(40 + number),
                "gender": "Female",
                "finding": FINDING["positive" if treated else "negative"],
                "treatment": TREATMENT.get(
                    (source["modality"], treated), "No intervention, routine follow-up"
                ),
                "label": "ERROR" if wrong else "CORRECT",
                "error_type": ("overtreatment" if treated else "undertreatment") if wrong else "none",
                "severity": "high" if wrong else "none",
                "patient_id": source["group"],
            }
        )
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def test_real_images_go_through_every_command(
    shared: Path, tiny_medgemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_table(shared, tmp_path / "cases.csv", per_cell=8)
    assert {Path(row["image"]).suffix for row in rows} >= {".jpg", ".png"}
    data, adapter = tmp_path / "data", tmp_path / "adapter"
    succeed(capsys, "prepare", tmp_path / "cases.csv", "--images", shared / "real-images", "--output", data)
    train = ("train", "--model", tiny_medgemma, "--data", data, "--epochs", "2", "--lr", "2e-3")
    succeed(capsys, *train, "--output", adapter)
    epochs = [json.loads(line) for line in (adapter / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train_loss"] for row in epochs if row.get("train_loss") is not None]
    assert losses[-1] < losses[0]
    tuned = ("--model", tiny_medgemma, "--adapter", adapter)
    for method in ("score", "generate"):
        output = tmp_path / method
        found = succeed(capsys, "eval", *tuned, "--data", data, "--output", output, "--method", method)
        answered = (output / "predictions.jsonl").read_text().splitlines()
        val = (data / "val.jsonl").read_text().splitlines()
        assert len(answered) == len(val) == found["n"]
    image = shared / "real-images" / rows[0]["image"]
    assert succeed(capsys, "generate", *tuned, "--image", image, "--prompt", "What does the image show?")


@pytest.fixture(scope="module")
def real_geometry(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint with MedGemma's vision geometry, its tokenizer, and a narrow text stack.

    Three of the tower's 27 layers: one takes three seconds an image on two cores.
    """
    directory = tmp_path_factory.mktemp("real") / "checkpoint"
    shutil.copytree(shared / "gemma3-tokenizer", directory)
    kinds = ("sliding_attention",) * 5 + ("full_attention",)
    text = TextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=64,
        sliding_window=1024,
        layer_types=kinds,
        rope_factor=8.0,
    )
    vision = VisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=3,
        num_attention_heads=16,
        image_size=896,
        patch_size=14,
    )
    config = ModelConfig(text=text, vision=vision, dtype="float32")
    mx.random.seed(0)
    tensors = dict(tree_flatten(Gemma3(config).parameters()))
    name = "vision_tower.vision_model.embeddings.patch_embedding.weight"
    tensors[name] = mx.contiguous(tensors[name].transpose(0, 3, 1, 2))
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(published_config(config)))
    return directory


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_tokenizer_and_vision_geometry_go_through(
    shared: Path, real_geometry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_table(shared, tmp_path / "cases.csv", per_cell=2)[:2]
    for row in rows:
        row["image"] = rows[0]["image"]
    (tmp_path / "cases.json").write_text(json.dumps(rows))
    model, data, adapter = tmp_path / "model", tmp_path / "data", tmp_path / "adapter"
    prepare = ("prepare", tmp_path / "cases.json", "--images", shared / "real-images", "--output", data)
    succeed(capsys, *prepare, "--val", "0")
    succeed(capsys, "convert", real_geometry, model, "--bits", "4", "--dtype", "float32")
    train = ("train", "--model", model, "--data", data, "--output", adapter, "--epochs", "1")
    succeed(capsys, *train, "--batch-size", "2")
    asked = ("--image", shared / "real-images" / rows[0]["image"], "--prompt", "What is seen?")
    answer = succeed(capsys, "generate", "--model", model, "--adapter", adapter, *asked, "--max-tokens", "4")
    assert answer["tokens"] >= 1
