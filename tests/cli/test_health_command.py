"""`eval` writes what an adapter's curves say, `train` says it, and loggers are checked first."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.cli.app import run
from mlx_medlora.evaluation.results import Forgetting, Health

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, dict[str, Any], str]]


def test_eval_writes_health_and_forgetting(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    output = tmp_path / "run"
    status, said, _ = call("eval", *place, "--adapter", adapter, "--output", output)
    assert status == 0
    written = json.loads((output / "health.json").read_text())
    assert written == said["health"]
    found = Health.model_validate(written).findings
    assert [(one.kind, one.found) for one in found[:2]] == [("overfitting", False), ("underfitting", False)]
    # the embedded model never read such text: nothing to forget, and it is said so
    assert found[2].found is None
    assert "does not know the 40 general answers" in found[2].sentence
    measured = Forgetting.model_validate_json((output / "forgetting.json").read_text())
    assert measured.model_dump(mode="json") == said["forgetting"]
    assert (measured.kl.value or 0) > 1


def test_eval_without_the_questions_without_curves_and_without_an_adapter(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    status, said, _ = call(
        "eval", *place, "--adapter", adapter, "--no-forgetting", "--output", tmp_path / "quick"
    )
    assert status == 0
    assert "forgetting" not in said
    assert "Not measured: it takes" in said["health"]["findings"][2]["sentence"]
    assert not (tmp_path / "quick" / "forgetting.json").exists()
    (adapter / "metrics.jsonl").unlink()
    for more, files in (([], True), (["--no-forgetting"], False)):
        output = tmp_path / f"foreign{files}"
        status, said, _ = call("eval", *place, "--adapter", adapter, *more, "--output", output)
        assert status == 0
        assert (output / "health.json").exists() == (output / "forgetting.json").exists() == files
    status, said, _ = call("eval", *place, "--output", tmp_path / "base")
    assert status == 0
    assert "health" not in said
    assert not (tmp_path / "base" / "health.json").exists()


def test_damaged_curves_are_refused_before_the_model_answers(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    (adapter / "metrics.jsonl").write_text('{"event": "epoch"}\n')
    status, _, said = call("eval", *place, "--adapter", adapter, "--output", tmp_path / "run")
    assert status == 2
    assert "metrics.jsonl:1: epoch is missing" in said
    assert not (tmp_path / "run").exists()


def test_train_says_each_finding_in_one_line(
    place: list[str | Path], tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", *place, "--rank", "2", "--epochs", "1", "--output"]
    status, said, _ = call(*command, tmp_path / "a")
    assert status == 0
    findings = said["health"]["findings"]
    assert [one["found"] for one in findings] == [None, None, None]
    assert "8 validation cases" in findings[0]["sentence"]
    assert run([*map(str, command), str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().out.splitlines()
    for kind in ("Overfitting", "Underfitting", "Forgetting"):
        assert sum(line.startswith(f"{kind}: cannot be told. ") for line in shown) == 1


def test_train_replays_and_logs(place: list[str | Path], tmp_path: Path, call: Call) -> None:
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"input": f"{n}?", "output": f"{n}."}) + "\n" for n in range(9)))
    more: list[str | Path] = ["--replay", general, "--replay-share", "0.2", "--rank", "2", "--epochs", "1"]
    if find_spec("tensorboard"):
        more += ["--log-to", "tensorboard", "--log-dir", tmp_path / "l"]
    status, said, _ = call("train", *place, *more, "--output", tmp_path / "ward7")
    assert status == 0
    assert said["data"]["replay"]["rows"] == 6
    assert said["settings"]["replay"] == "general.jsonl"
    if find_spec("tensorboard"):
        assert list((tmp_path / "l" / "ward7").glob("events.out.tfevents.*"))


def test_loggers_are_checked_before_anything_runs(
    place: list[str | Path], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = ["--output", tmp_path / "a"]
    status, _, said = call("train", *place, *output, "--log-to", "mlflow")
    assert status == 2
    assert "no logger is called mlflow" in said
    status, _, said = call("train", *place, *output, "--log-dir", tmp_path)
    assert status == 2
    assert "--log-dir is given without --log-to" in said
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, said = call("train", *place, *output, "--log-to", "wandb")
    assert status == 2
    assert 'pip install "mlx-medlora[wandb]"' in said
    assert not (tmp_path / "a").exists()


def test_a_share_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["train", "--model", "tiny-medgemma", "--data", "d", "--output", "o", "--replay-share", "0.2"]
    assert run(line) == 2
    assert "--replay-share is given without --replay" in capsys.readouterr().err
