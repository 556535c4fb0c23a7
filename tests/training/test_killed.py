"""Processes that train: killed, asked to stop, and one at a time."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ongoing import contents, work_of

from mlx_medlora.training.stop import Stop


def command(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    options = ["--epochs", "4", "--batch-size", "2", "--rank", "2", "--lr", "1e-3", "--checkpoint-every", "0"]
    place = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return [sys.executable, "-m", "mlx_medlora.cli.app", "train", *place, *options, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def newest(output: Path) -> int:
    """The step of the newest checkpoint; -1 without one."""
    found = (work_of(output) / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=-1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # eight processes, each of which imports everything
def test_killed_at_random_instants(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """A checkpoint after each update, so that many kills fall into the writing of one."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(tiny_medgemma, data, whole), check=True, capture_output=True)
    chance, reached = random.Random(5), -1
    for kill in range(6):
        process = start(command(tiny_medgemma, data, output, *(["--resume"] if kill else [])))
        wait_for(lambda: newest(output) > reached, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        if output.exists():
            break
        assert newest(output) >= reached - 1, "at most the one that was being replaced is under another name"
        reached = newest(output)
    else:
        last = [*command(tiny_medgemma, data, output), "--resume"]
        ended = subprocess.run(last, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    assert contents(output) == contents(whole)


def test_one_owner_and_what_the_signals_say(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    arguments = [*command(tiny_medgemma, data, output), "--epochs", "9999"]
    process = start(arguments)
    wait_for(lambda: newest(output) >= 3, process)
    other = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert f"another run writes here: process {process.pid} on" in other.stderr
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, said) == (130, "")
    assert "Stopping: this update is finished and saved first" in errors
    assert "updates; all are saved" in errors
    assert "Traceback" not in errors
    hint = errors.strip().splitlines()[-1]
    assert "continue with: mlx-medlora train --model" in hint
    assert hint.endswith(" --epochs 9999 --resume")


def test_before_there_are_updates_none_is_spoken_of(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Stop() as stop, stop.at_once():
        signal.raise_signal(signal.SIGINT)
    assert capfd.readouterr().err == "\nStopping.\n"  # a thread says it, before the block is left


def test_what_the_parent_ignores_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop(quiet=True) as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
            signal.raise_signal(signal.SIGTERM)
            assert stop.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        monkeypatch.setattr(signal, "getsignal", lambda number: None)  # set by code that is not Python
        with Stop(quiet=True) as stop:
            signal.raise_signal(signal.SIGINT)
        assert not stop.requested
    finally:
        signal.signal(signal.SIGINT, before)


BUSY = """
import mlx_medlora.gemma
import mlx.core as mx
from mlx_medlora.training.stop import Stop
with Stop() as stop:
    stop.has_updates = True
    print("ready", flush=True)
    x = mx.eye(1500)
    for _ in range(100_000):
        x = x @ mx.eye(1500)
    mx.eval(x)
"""


def test_a_second_ctrl_c_ends_at_once() -> None:
    """Also while the main thread computes, where no handler of Python's runs."""
    process = start([sys.executable, "-c", BUSY])
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    assert process.stderr.readline().startswith("Stopping: ")
    process.send_signal(signal.SIGTERM)  # mlx.launch sends one to ranks that Ctrl-C ends already
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped at once; the last checkpoint is whole" in errors
