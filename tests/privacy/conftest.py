"""A small table of cases, a marked dataset, and commands in processes of their own."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from marked import NAME, TERMS, TINY, do
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of twelve cases, `cases.csv`, and its images in `scans/`."""
    root = tmp_path_factory.mktemp("source")
    (root / "scans").mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / f"scans/{number}.png")
        row = {"id": f"c{number}", "modality": ("xray", "mri")[number % 2], "image": f"{number}.png"}
        row |= {"age": 40 + number, "gender": "female", "finding": "Clear lungs", "treatment": "Rest"}
        rows.append(row | {"label": ("ERROR", "CORRECT")[number // 2 % 2]})
    with (root / "cases.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="session")
def credentialed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A marked dataset `data`, and an `adapter` trained on it."""
    root = tmp_path_factory.mktemp("credentialed")
    table = ("prepare", source / "cases.csv", "--images", source / "scans", "--output", root / "data")
    do(*table, "--credentialed", NAME, "--terms", TERMS)
    steps = ("--epochs", 1, "--rank", 2, "--no-features")
    do("train", *TINY, "--data", root / "data", "--output", root / "adapter", *steps)
    return root


@pytest.fixture(scope="session")
def command() -> Run:
    """run(*arguments, cwd=..., env=..., before=...): a command line in a process of its own."""

    def run(
        *arguments: object, cwd: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        environment = {"PYTHONPATH": str(ROOT), **os.environ, **(env or {})}
        return subprocess.run(
            [*before, sys.executable, "-m", "mlx_medlora.cli.app", *map(str, arguments)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
