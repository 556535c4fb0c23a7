import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_medlora import __version__
from mlx_medlora.cli.app import app, run

COMMANDS = (
    *("demo", "convert", "prepare", "plan", "train", "eval", "compare", "calibrate", "generate"),
    *("report", "model-card", "heatmaps"),
    *("fuse", "export", "import", "parity", "bench", "doctor"),
)
HEAVY = (
    "mlx",
    "mlx_lm",
    "numpy",
    "transformers",
    "PIL",
    "scipy",
    "matplotlib",
    "jinja2",
    "sklearn",
    "rich",
    "huggingface_hub",
    "psutil",
)


def test_the_commands_are_these() -> None:
    assert tuple(sorted(COMMANDS)) == tuple(sorted(command.name or "" for command in app.registered_commands))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from mlx_medlora.cli.app import run; status = run(['--help']);"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]; sys.exit(heavy or status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example_of_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    shown = capsys.readouterr().out
    examples = shown.partition("Examples:\n")[2].strip().splitlines()
    assert examples
    assert all(line.strip().startswith(f"mlx-medlora {command}") for line in examples)
    assert "--json" in shown


def test_no_arguments_show_the_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["mlx-medlora"])
    assert run() == 0
    assert "Usage: mlx-medlora" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"mlx-medlora {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["eval", "--wings"], "No such option: --wings"),
        (["eval", "--data", "d", "--output", "o"], "Missing option '--model'"),
        (["convert", "somewhere"], "Missing argument 'OUTPUT'"),
        (["convert", "a", "b", "--bits", "5"], "'5' is not one of '4', '8'"),
        (["train", "--model", "m", "--data", "d", "--output", "o", "--epochs", "many"], "--epochs"),
        (["eval", "--model", "m", "--data", "d", "--output", "o", "--batch-size", "0"], "--batch-size"),
        (["generate", "--model", "m", "--prompt", "p", "--temperature", "-1"], "--temperature"),
        (["convert", "m", "o", "--bits", "3"], "Invalid value for '--bits': '3' is not one of '4', '8'"),
        (["prepare", "--output", "o"], "give either CASES or --phantoms"),
        (["prepare", "c.csv", "--phantoms", "9", "--output", "o"], "exclude each other"),
        (["prepare", "--phantoms", "9", "--images", "i", "--output", "o"], "phantoms are drawn"),
        (
            ["prepare", "--phantoms", "9", "--val", "5", "--test", "4", "--output", "o"],
            "train split would be empty",
        ),
        (
            ["prepare", "--phantoms", "9", "--val", "1.5", "--output", "o"],
            "a share below 1 or a count, not 1.5",
        ),
    ],
)
def test_wrong_usage_is_said_in_words(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert message in said.err
    assert "Traceback" not in said.err


def test_doctor_gives_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["mlx"]
    assert found["matmul_gflops"] > 0
    assert found["memory"]["total_gib"] > 0
    assert set(found["openblas"]) == {"library", "reason"}


def test_doctor_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor"]) == 0
    said = capsys.readouterr()
    assert "matmul gflops" in said.out
    assert "{" not in said.out
