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
Succeed = Callable[..., dict[str, Any]]
Fail = Callable[..., str]


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
def succeed(capsys: pytest.CaptureFixture[str]) -> Succeed:
    """Run a command with --json: status 0, and stdout is exactly one JSON object."""

    def call(*arguments: str | Path) -> dict[str, Any]:
        status = run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert status == 0, said.err
        value = json.loads(said.out)
        assert isinstance(value, dict)
        return value

    return call


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run a command with --json: status 2, nothing on stdout, no traceback; returns what it said."""

    def call(*arguments: str | Path) -> str:
        status = run([*map(str, arguments), "--json"])
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        assert said.err.splitlines()[-1].startswith(("Error: ", "Hint: "))
        assert "Traceback" not in said.err
        assert "internal error" not in said.err
        return said.err

    return call


@pytest.fixture
def place(tiny_medgemma: Path, phantom_dataset: Path) -> list[str | Path]:
    """The embedded model and a few phantoms."""
    return ["--model", tiny_medgemma, "--data", phantom_dataset]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A copy of the reference adapter."""
    return Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
