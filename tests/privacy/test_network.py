"""No command reaches for a network unless it was given a hub id; --offline holds it back even then."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_lines import whole_path

from mlx_medlora import network
from mlx_medlora.cli.app import app, run

BLOCKED = Path(__file__).parent / "blocked"
ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
REPO = "google/medgemma-4b-it"
# Each with what it needs to reach the model.
DOWNLOADING = {
    "convert": ("convert", REPO, "out"),
    "train": ("train", "--model", REPO, "--data", "DATA", "--output", "out"),
    "eval": ("eval", "--model", REPO, "--data", "DATA", "--output", "out"),
    "calibrate": (
        *("calibrate", "--model", REPO, "--adapter", "PEFT", "--data", "DATA"),
        *("--max-false-flag", "0.1", "--split", "train"),
    ),
    "generate": ("generate", "--model", REPO, "--prompt", "?"),
    "fuse": ("fuse", "--model", REPO, "--adapter", "a", "--output", "out"),
    "import": ("import", "PEFT", "out", "--model", REPO),
    "parity": ("parity", "--model", REPO),
    "bench": ("bench", "--model", REPO),
}


@pytest.fixture
def blocked(tmp_path: Path) -> dict[str, str]:
    """An environment in which Python's sockets refuse, and write down each attempt."""
    path = os.pathsep.join([str(BLOCKED), str(ROOT)])
    home = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "", "HF_HUB_DISABLE_TELEMETRY": ""}
    # the names are set, so telemetry is as its user left it: on. Nothing may be sent all the same
    return {"PYTHONPATH": path, "ATTEMPTS": str(tmp_path / "attempts"), **home}


def attempts(environment: dict[str, str]) -> str:
    path = Path(environment["ATTEMPTS"])
    return path.read_text() if path.exists() else ""


def test_the_block_sees_what_it_should(blocked: dict[str, str], tmp_path: Path) -> None:
    code = "import urllib.request as u; u.urlopen('http://example.org')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **blocked}, capture_output=True)
    assert done.returncode != 0
    assert "getaddrinfo" in attempts(blocked)


def test_no_command_reaches_for_a_network(
    source: Path, blocked: dict[str, str], tmp_path: Path, command: Run
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name, line in whole_path(source).items():
        done = command(*line, cwd=work, env=blocked)
        assert done.returncode == 0, (name, done.stderr)
        assert attempts(blocked) == "", name


@pytest.mark.slow
def test_nor_does_the_demo_which_teaches_the_task(
    blocked: dict[str, str], tmp_path: Path, command: Run
) -> None:
    done = command("demo", "--output", "demo", "--json", cwd=tmp_path, env=blocked)
    assert done.returncode == 0, done.stderr
    assert attempts(blocked) == ""
    found = json.loads(done.stdout)
    assert found["base"]["accuracy"] < 0.75
    assert found["tuned"]["accuracy"] >= 0.9
    assert found["tuned"]["n"] == 200
    modules = json.loads((tmp_path / "demo" / "adapter" / "adapter_config.json").read_text())
    assert set(modules["target"]) == {"q_proj", "v_proj", "o_proj"}


@pytest.mark.slow
def test_neither_do_the_ladder_and_the_bench(blocked: dict[str, str], tmp_path: Path, command: Run) -> None:
    for line in (("parity",), ("bench", "--steps", "1")):
        done = command(*line, cwd=tmp_path, env=blocked)
        assert done.returncode == 0, (line, done.stderr)
        assert attempts(blocked) == "", line


def unroutable(text: str) -> int:
    """Packets that this network namespace had no way for, from /proc/net/snmp."""
    names, values = (line.split() for line in re.findall(r"^Ip: .*$", text, re.MULTILINE))
    return int(values[names.index("OutNoRoutes")])


def namespace() -> tuple[str, ...]:
    tool = shutil.which("unshare")
    if tool is None or subprocess.run([tool, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("needs `unshare -rn`: a network namespace of one's own")
    return (tool, "-rn", "sh", "-c", '"$@" && cat /proc/net/snmp', "sh")


def test_nor_does_code_that_is_not_python(source: Path, tmp_path: Path, command: Run) -> None:
    """Without any network everything works, and the kernel counts no packet that found no route."""
    alone = namespace()
    probe = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass"
    seen = subprocess.run([*alone, sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert unroutable(seen.stdout) > 0
    for name, line in whole_path(source).items():
        if name in ("prepare", "train", "eval"):
            done = command(*line, cwd=tmp_path, before=alone)
            assert done.returncode == 0, (name, done.stderr)
            assert unroutable(done.stdout) == 0, name


def test_what_looks_like_a_path_is_never_asked_for(
    blocked: dict[str, str], tmp_path: Path, command: Run
) -> None:
    for name in ("./models/gone", "models/medgemma/gone", "/models/gone", "~/gone", "gone", "a\\b"):
        done = command("convert", name, "out", cwd=tmp_path, env=blocked)
        assert done.returncode == 2, done.stderr
        assert attempts(blocked) == "", name


def test_a_path_beside_what_is_there_is_no_hub_id(
    blocked: dict[str, str], tmp_path: Path, command: Run
) -> None:
    (tmp_path / "models").mkdir()
    done = command("convert", "models/mine", "out", cwd=tmp_path, env=blocked)
    assert (done.returncode, attempts(blocked)) == (2, "")
    assert "models/mine: no such model directory" in done.stderr
    assert "There is a directory 'models' here, so this is no hub id" in done.stderr
    done = command("convert", "owner/mine", "out", cwd=tmp_path, env=blocked)
    assert attempts(blocked) != ""  # asked for by a hub id


def test_the_base_that_a_strangers_adapter_names_is_not_downloaded(
    blocked: dict[str, str], peft: Path, tmp_path: Path, command: Run
) -> None:
    named = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "evil/tracker"}
    (peft / "adapter_config.json").write_text(json.dumps(named))
    done = command("import", peft, "out", cwd=tmp_path, env=blocked)
    assert (done.returncode, attempts(blocked)) == (2, "")
    assert "its base 'evil/tracker' is not to be had" in done.stderr
    assert "--model" in done.stderr


def lines(name: str, phantom_dataset: Path, peft: Path) -> list[str]:
    places = {"DATA": str(phantom_dataset), "PEFT": str(peft)}
    return [places.get(word, word) for word in DOWNLOADING[name]]


@pytest.fixture
def peft(tmp_path: Path) -> Path:
    """Enough of a PEFT adapter for its base to be looked for."""
    directory = tmp_path / "peft"
    directory.mkdir()
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    (directory / "adapter_model.safetensors").write_bytes(b"")
    return directory


@pytest.mark.parametrize("by", ["flag", "environment"])
@pytest.mark.parametrize("name", DOWNLOADING)
def test_offline_holds_back_every_command_that_downloads(
    name: str,
    by: str,
    phantom_dataset: Path,
    peft: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[bool] = []

    def download(repo: str, *, local_files_only: bool, **_: object) -> str:
        from huggingface_hub.errors import LocalEntryNotFoundError

        asked.append(local_files_only)
        raise LocalEntryNotFoundError(repo)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1" if by == "environment" else "0")
    monkeypatch.chdir(tmp_path)
    assert run([*lines(name, phantom_dataset, peft), *(["--offline"] if by == "flag" else [])]) == 2
    said = capsys.readouterr().err
    assert f"Error: {REPO} is not completely in the hub's cache, and downloads are off" in said
    assert "without --offline or HF_HUB_OFFLINE" in said
    assert asked == [True]
    assert not network.is_offline() or by == "environment"  # the flag is of one command


def test_every_command_has_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command in app.registered_commands:
        name = str(command.name)
        assert run([name, "--help"]) == 0
        assert "--offline" in capsys.readouterr().out, name


@pytest.mark.parametrize(
    ("given", "off"),
    [
        ({}, True),
        ({"DO_NOT_TRACK": "1"}, True),
        ({"HF_HUB_DISABLE_TELEMETRY": "0"}, False),
        ({"DO_NOT_TRACK": "0"}, False),
    ],
)
def test_telemetry_is_off_unless_its_user_says_otherwise(given: dict[str, str], off: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in network.TELEMETRY} | given
    code = "import mlx_medlora; from huggingface_hub import constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == f"{off}\n", done.stderr


@pytest.mark.parametrize(("given", "said"), [({}, False), ({"TRANSFORMERS_NO_ADVISORY_WARNINGS": ""}, True)])
def test_transformers_says_nothing_of_an_absent_torch_unless_asked(given: dict[str, str], said: bool) -> None:
    """The base installation has no torch, and nothing but `parity` needs it."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "import mlx_medlora, transformers"
    )
    # without what libraries, once imported here, have put there for transformers
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRANSFORMERS_")} | given
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, "PyTorch was not found" in done.stderr) == (0, said), done.stderr
