"""`bench` on the embedded model, and what it says of claims."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.cli import bench
from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError, MedloraError


def test_figures_of_the_embedded_model_on_the_bundled_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--steps", "1", "--batch-size", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["dtype"], found["steps"], found["rows"]) == (
        "tiny-medgemma",
        "float32",
        1,
        3,
    )
    assert found["images"] == 3
    assert found["scored_cases"] == 8
    assert set(found["matmul"]) == {"float32"}
    assert 0 < found["step"] <= found["first_step"]
    assert found["step_gflop"] < found["first_step_gflop"]
    rate = found["step_gflop"] / found["step"] / found["matmul"]["float32"]
    assert found["step_share"] == pytest.approx(rate, rel=0.01)
    assert found["step_memory"] > 1e6
    assert found["weights"] > 5e6


def test_people_read_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--steps", "1"]) == 0
    said = capsys.readouterr().out
    for part in ("products of float32", "training step", "in the first epoch", "scoring", "over 8 cases"):
        assert part in said


def test_each_flag_reaches_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def measure(model: str, data: Path, **options: Any) -> None:
        seen.update(options, model=model, data=data)
        raise InputError("seen")

    monkeypatch.setattr("mlx_medlora.bench.bench", measure)
    flags = ["--model", "m", "--data", "d", "--split", "test", "--batch-size", "7", "--steps", "9"]
    assert run(["bench", *flags]) == 2
    seen.pop("say")
    assert seen == {"model": "m", "data": Path("d"), "split": "test", "batch_size": 7, "steps": 9}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--model", "./nowhere"], "nowhere"),
        (["--split", "test"], "test"),
        (["--quick"], "--quick is for --claims"),
    ],
)
def test_wrong_input_is_said_in_words(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_claims_run_every_file_and_say_which_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench_a.py").write_text("import sys; print('ratio 2.0', *sys.argv[1:])")
    (tmp_path / "bench_b.py").write_text("import sys; print('limit passed'); sys.exit(1)")
    (tmp_path / "other.py").write_text("raise SystemExit('not a claim')")
    with pytest.raises(MedloraError, match=r"did not end well: bench_b\.py"):
        bench.run_claims(tmp_path, ["--quick"])
    said = capsys.readouterr()
    assert "1 of 2 ran" in said.out
    assert "ratio 2.0 --quick" in said.err
    assert "limit passed" in said.err


def test_claims_need_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "BENCHMARKS", tmp_path)
    assert run(["bench", "--claims"]) == 2
    assert "source repository" in capsys.readouterr().err
