"""`train` and `eval` on one store of image features."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_medlora.cli.app import run

Fail = Callable[..., str]


def test_train_and_eval_share_the_features(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """32 images for training and validation; the split val is 8 of them."""
    place = ["--model", tiny_medgemma, "--data", phantom_dataset]
    store = ["--features", tmp_path / "store"]
    quick = ["--epochs", "1", "--rank", "2"]
    said: list[str] = []
    for arguments in (
        ["train", *place, *store, *quick, "--output", tmp_path / "a"],
        ["train", *place, *store, *quick, "--output", tmp_path / "b"],
        ["eval", *place, *store, "--output", tmp_path / "c"],
        ["eval", *place, *store, "--split", "test", "--output", tmp_path / "d"],
        ["eval", *place, "--no-features", "--output", tmp_path / "e"],
        ["eval", *place, *store, "--features-limit", "1e-8", "--split", "test", "--output", tmp_path / "f"],
        ["train", *place, *store, *quick, "--features-limit", "1e-8", "--output", tmp_path / "g"],
        ["train", *place, "--no-features", *quick, "--output", tmp_path / "h"],
    ):
        assert run([str(argument) for argument in arguments]) == 0
        lines = capsys.readouterr().err.splitlines()
        [line] = [line for line in lines if line.startswith("image features: ")]
        said.append(line.removeprefix("image features: "))
    assert said[:5] == [
        "0 from the store, 32 computed",
        "32 from the store, 0 computed",
        "8 from the store, 0 computed",
        "0 from the store, 8 computed",
        "8 computed, in memory",
    ]
    assert said[5] == "8 from the store, 0 computed"  # the limit bounds what is added
    assert said[6] == "32 from the store, 0 computed"
    assert said[7] == "32 computed, in memory"
    adapters = {(tmp_path / name / "adapters.safetensors").read_bytes() for name in "abgh"}
    assert len(adapters) == 1
    cards = [json.loads((tmp_path / name / "scorecard.json").read_text()) for name in "ce"]
    assert cards[0] == cards[1]


def test_faulty_feature_flags_are_named(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path, fail: Fail
) -> None:
    for command in ("train", "eval"):
        given = [command, "--model", tiny_medgemma, "--data", phantom_dataset, "--output", tmp_path / "o"]
        assert "limit: Input should be greater than 0" in fail(*given, "--features-limit", "0")
        message = fail(*given, "--no-features", "--features", tmp_path)
        assert "--no-features keeps image features in memory only" in message
