"""The command reference is generated, and README's commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_medlora.cli.app import run

ROOT = Path(__file__).resolve().parents[1]


def test_the_command_reference_is_up_to_date(tmp_path: Path) -> None:
    made = tmp_path / "cli.md"
    arguments = ["mlx_medlora.cli.app", "utils", "docs", "--name", "mlx-medlora", "--output", str(made)]
    subprocess.run([sys.executable, "-m", "typer", *arguments], check=True, capture_output=True, cwd=ROOT)
    assert made.read_text() == (ROOT / "docs" / "cli.md").read_text(), "run `make docs`"


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [line.split("#")[0].strip() for line in text.splitlines() if line.startswith("mlx-medlora ")]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.split()
    assert run([words[1], "--help"]) == 0
    offered = capsys.readouterr().out
    for option in re.findall(r"(?<!\S)--[a-z-]+", command):
        assert option in offered
