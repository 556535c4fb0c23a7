"""Each benchmark runs on toy sizes, peers included, and prints what it says it prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(name: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), *flags],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_training_step_of_all() -> None:
    said = run("bench_train_step.py", "--quick", "--warmup", "1")
    for name in ("mlx-vlm", "peft", "peft-kept", "ours", "ours-first-epoch"):
        assert sum(line.startswith(f"{name} ") for line in said.splitlines()) == 1
    assert "goal" not in said  # toy sizes are not judged


def test_the_figures_of_a_scorecard() -> None:
    said = run("bench_metrics.py", "--quick")
    for name in ("importing", "alone", "repeated", "ratio"):
        assert sum(line.startswith(f"{name}: ") for line in said.splitlines()) == 1


def test_how_often_intervals_hold() -> None:
    said = run("coverage.py", "--quick").splitlines()
    for start, figure in (
        ("d 2.0, 20 cases", "auprc"),
        ("share 0.9, 30 x 4", "share"),
        ("40 questions", "kl"),
    ):
        assert any(line.startswith(start) and f"{figure} " in line for line in said)
    assert not any("none" in line for line in said)  # no figure without an interval


def test_the_page() -> None:
    said = run("bench_report.py", "--quick")
    assert said.startswith("page: ")
    names = ("loaded", "shown", "filter", "sort", "reset", "all")
    found = [name for name in names if any(line.startswith(f"{name}: ") for line in said.splitlines())]
    assert tuple(found) == names or "browser: none here" in said


def test_what_replay_keeps() -> None:
    said = run("bench_replay.py", "--quick")
    for name in ("plain", "replay", "ratio"):
        assert sum(line.startswith(f"seed 0 {name}: ") for line in said.splitlines()) == 1


@pytest.mark.slow
def test_the_step_of_a_gpu_on_the_tiny_shape() -> None:
    said = run("gpu_step.py", "--shape", "tiny", "--rounds", "1", "--rows", "2", "--steps", "1")
    for name in ("peft", "peft-kept", "ours", "ours-first-epoch"):
        assert sum(line.startswith(f"{name} ") for line in said.splitlines()) == 1


def test_memory_over_a_long_run() -> None:
    said = run("bench_memory_flat.py", "--quick")
    assert said.count("MB resident") == 4
    assert "too short a run to judge" in said


def test_the_blas() -> None:
    assert "ratio" in run("bench_blas.py", "--quick")
