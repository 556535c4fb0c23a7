"""A command run in this process, and what most commands are given."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.cli.app import run

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command with --json: its status, its object (empty without one) and what it said."""

    def run_it(*arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        status = run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "internal error" not in said.err
        return status, json.loads(said.out) if said.out else {}, said.err

    return run_it


@pytest.fixture
def place(tiny_medgemma: Path, phantom_dataset: Path) -> list[str | Path]:
    """The embedded model and a few phantoms."""
    return ["--model", tiny_medgemma, "--data", phantom_dataset]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of the reference adapter."""
    return Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
