"""The commands on the embedded model, from a table to an answer, and what they say to bad input."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cli.app import run

Succeed = Callable[..., dict[str, Any]]
Fail = Callable[..., str]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of twelve patients beside a folder of pictures of several kinds."""
    root = tmp_path_factory.mktemp("table")
    (root / "scans").mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for number in range(12):
        grey = number % 2 == 0
        pixels = rng.integers(0, 255, (40 + number, 50) if grey else (50, 40 + number, 3), dtype=np.uint8)
        name = f"scan {number}.{'png' if grey else 'jpg'}"
        Image.fromarray(pixels).save(root / "scans" / name)
        rows.append(
            {
                "id": f"p{number}",
                "modality": ("xray", "mri")[number % 2],
                "image": name,
                "age": 40 + number,
                "gender": "female",
                "finding": "Consolidation in the right lower lobe",
                "treatment": "Oral amoxicillin for five days",
                "label": ("ERROR", "CORRECT")[number // 2 % 2],
            }
        )
    with (root / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_from_a_table_to_an_answer(
    table: Path, tiny_medgemma: Path, tmp_path: Path, succeed: Succeed
) -> None:
    data, model, adapter = tmp_path / "data", tmp_path / "model", tmp_path / "adapter"
    made = succeed(
        "prepare", table / "cases.csv", "--images", table / "scans", "--output", data, "--val", "4"
    )
    assert (made["splits"]["train"]["cases"], made["splits"]["val"]["cases"]) == (8, 4)

    converted = succeed("convert", tiny_medgemma, model, "--dtype", "float32")
    assert converted["settings"]["dtype"] == "float32"

    place = ("--model", model, "--data", data)
    rehearsed = succeed("train", *place, "--dry-run", "--rank", "2")
    shown = "".join(token["text"] for token in rehearsed["tokens"] if token["supervised"])
    assert shown.startswith(("ERROR -", "CORRECT -"))
    assert not adapter.exists()

    trained = succeed("train", *place, "--output", adapter, "--epochs", "1", "--rank", "2", "--lr", "1e-3")
    assert trained["settings"]["rank"] == 2
    assert trained["updates"] == 2
    assert (adapter / "adapters.safetensors").is_file()

    card = succeed("eval", *place, "--adapter", adapter, "--output", tmp_path / "scored")
    assert card["n"] == 4
    assert trained["val_accuracy"] == card["accuracy"]  # training measures as `eval` does
    assert trained["val_accuracy_interval"] == card["accuracy_interval"]
    assert (tmp_path / "scored" / "scorecard.json").is_file()

    written = succeed(
        "eval", *place, "--method", "generate", "--max-tokens", "4", "--output", tmp_path / "words"
    )
    assert written["about"]["method"] == "generate"

    picture = next((table / "scans").iterdir())
    asked = (
        "generate",
        "--model",
        model,
        "--adapter",
        adapter,
        "--prompt",
        "What is seen?",
        "--max-tokens",
        "5",
    )
    answer = succeed(*asked, "--image", picture, "--image", picture)
    assert answer["tokens"] <= 5
    assert succeed(*asked, "--image", picture, "--image", picture)["text"] == answer["text"]
    sampled = [succeed(*asked, "--temperature", "5", "--seed", seed)["text"] for seed in ("1", "1", "2")]
    assert sampled[0] == sampled[1]


def test_eval_for_people(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["eval", "--model", tiny_medgemma, "--data", phantom_dataset, "--output", tmp_path / "e"]
    assert run([str(argument) for argument in arguments]) == 0
    said = capsys.readouterr().out
    for wanted in (
        "accuracy",
        "valid treatments that were found valid",
        "ultrasound",
        "not a medical device",
    ):
        assert wanted in said
    assert f"Wrote {tmp_path / 'e'}" in said


def test_missing_things_are_named(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, fail: Fail
) -> None:
    there, gone, output = tiny_medgemma, tmp_path / "gone", tmp_path / "out"
    assert str(gone) in fail("eval", "--model", gone, "--data", phantom_dataset, "--output", output)
    assert str(gone) in fail("eval", "--model", there, "--data", gone, "--output", output)
    assert str(gone) in fail(
        "eval", "--model", there, "--adapter", gone, "--data", phantom_dataset, "--output", output
    )
    assert "'holdout'" in fail(
        "eval", "--model", there, "--data", phantom_dataset, "--split", "holdout", "--output", output
    )
    assert str(gone) in fail("train", "--model", gone, "--data", phantom_dataset, "--output", output)
    assert "--output is missing" in fail("train", "--model", there, "--data", phantom_dataset)
    assert str(gone) in fail("convert", gone, output)
    assert str(gone) in fail("generate", "--model", there, "--prompt", "Seen?", "--image", gone)
    assert "prompt is empty" in fail("generate", "--model", there, "--prompt", " ")
    for flag in ("--prompt", "--system"):
        lone = ["--prompt", "Seen?", flag, "caf\udce9"]  # what a shell in Latin-1 passes
        assert f"{flag} is not UTF-8" in fail("generate", "--model", there, *lone)
    assert "--seed" in fail("generate", "--model", there, "--prompt", "Seen?", "--seed", "-5")
    for flag in ("--memory", "--tflops"):
        assert flag in fail("plan", "--model", there, "--data", phantom_dataset, flag, "inf")
    huge = ["--memory", "8", "--batch-size", "9" * 12]  # its divisors would be looked for one by one
    assert "batch_size" in fail("plan", "--model", there, "--data", phantom_dataset, *huge)
    assert "--phantoms" in fail("prepare", "--phantoms", "9" * 20, "--output", tmp_path / "out")
    assert str(gone) in fail("prepare", gone, "--output", output)
    assert list(tmp_path.iterdir()) == []


def test_the_data_of_fuse_is_looked_at_before_the_work(
    tiny_medgemma: Path, phantom_dataset: Path, tmp_path: Path, fail: Fail
) -> None:
    """The adapter is not there either: it would be named next."""
    given = ["fuse", "--model", tiny_medgemma, "--adapter", tmp_path / "a", "--output", tmp_path / "out"]
    packed = [*given, "--requantise", "4"]
    assert "--data goes with --requantise" in fail(*given, "--data", phantom_dataset)
    assert "no such dataset directory" in fail(*packed, "--data", tmp_path / "gone")
    assert "no split 'gone'" in fail(*packed, "--data", phantom_dataset, "--split", "gone")


def test_an_output_in_use_is_refused_before_any_work(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, fail: Fail
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    place = ("--model", tiny_medgemma, "--data", phantom_dataset, "--output", tmp_path)
    for command in (
        ("eval", *place),
        ("train", *place),
        ("convert", tiny_medgemma, tmp_path),
        ("prepare", "--phantoms", "20", "--output", tmp_path),
        ("demo", "--output", tmp_path),
    ):
        assert "not empty" in fail(*command)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_a_model_of_another_kind_is_refused(phantom_dataset: Path, tmp_path: Path, fail: Fail) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    said = fail("eval", "--model", other, "--data", phantom_dataset, "--output", tmp_path / "out")
    assert "model_type is 'llama'" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"\x89PNG\r\n\x1a\n\x00\x00", "image"), (None, "does not exist")],
)
def test_a_damaged_image_is_named(
    content: bytes | None,
    message: str,
    phantom_dataset: Path,
    tiny_medgemma: Path,
    tmp_path: Path,
    fail: Fail,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dataset, data)
    rows = [json.loads(line) for line in (data / "val.jsonl").read_text().splitlines()]
    image = data / rows[1]["image_path"]
    if content is None:
        image.unlink()
    else:
        image.write_bytes(content)
    for command in ("eval", "train"):
        said = fail(command, "--model", tiny_medgemma, "--data", data, "--output", tmp_path / "out")
        assert image.name in said
        assert message in said
        assert "val.jsonl:2: " in said
    assert not (tmp_path / "out").exists()


def test_an_id_in_two_splits_is_refused_by_training_and_by_evaluation(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, fail: Fail
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dataset, data)
    rows = (data / "val.jsonl").read_text() + (data / "train.jsonl").read_text().splitlines()[0] + "\n"
    (data / "val.jsonl").write_text(rows)
    for command in ("eval", "train"):
        said = fail(command, "--model", tiny_medgemma, "--data", data, "--output", tmp_path / "out")
        assert "is in the split 'train' too" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("output", "MAYBE - unsure", "ERROR - "),
        ("input", 7, "input"),
        ("id", None, "id"),
        ("surprise", 1, "surprise"),
    ],
)
def test_a_faulty_row_is_named_with_its_line(
    field: str,
    value: object,
    message: str,
    phantom_dataset: Path,
    tiny_medgemma: Path,
    tmp_path: Path,
    fail: Fail,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantom_dataset, data)
    lines = (data / "val.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), field: value})
    (data / "val.jsonl").write_text("\n".join(lines) + "\n")
    said = fail("eval", "--model", tiny_medgemma, "--data", data, "--output", tmp_path / "out")
    assert "val.jsonl:2" in said
    assert message in said


def test_an_unknown_yaml_key_is_refused_by_name(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, fail: Fail
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("epochs: 1\nlearning_rate: 0.1\n")
    place = ("--model", tiny_medgemma, "--data", phantom_dataset, "--output", tmp_path / "out")
    said = fail("train", *place, "--config", recipe)
    assert "recipe.yaml:2: " in said
    assert "unknown option 'learning_rate'" in said
