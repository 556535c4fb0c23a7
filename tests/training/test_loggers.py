"""Loggers hear figures, go on where a run goes on, and end no run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_medlora.errors import InputError, Interrupted
from mlx_medlora.training.events import Epoch, Event, Plan, Resumed, Step
from mlx_medlora.training.loggers import opening
from mlx_medlora.training.loggers.figures import config, figures
from mlx_medlora.training.loggers.opening import Tracker, checked, open_loggers
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

SETTINGS = TrainSettings(epochs=2, batch_size=2, lr=1e-3, rank=2)  # five rows: three updates an epoch
STEP = Step(3, 1, 0.5, 1e-3, 2.0, 40, 4, 8.0, 60.0, 1 << 30)
EPOCH = Epoch(1, 0.6, 0.4, 1.49, None, True, 3.0)


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(name) is None, reason=f"the extra `{name}` is not installed")


class Kept:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.opened: list[Any] = []
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.closed = 0

    def make(self, *opened: Any) -> Kept:
        self.opened.append(opened)
        return self

    def write(self, figures: dict[str, float], step: int) -> None:
        self.rows.append((step, figures))

    def close(self) -> None:
        self.closed += 1


def test_figures_are_numbers_and_what_was_not_measured_is_left_out() -> None:
    found = figures(STEP)
    assert found["train/loss"] == 0.5
    assert found["train/learning_rate"] == 1e-3
    assert "train/replay_rows" not in found
    epoch = figures(EPOCH)
    assert epoch == {"epoch/train_loss": 0.6, "val/loss": 0.4, "val/perplexity": 1.49, "epoch/number": 1.0}
    assert all(isinstance(value, float) for value in (found | epoch).values())
    measured = figures(Epoch(1, 0.6, 0.4, 1.49, 0.875, True, 3.0, (0.53, 0.98)))
    bounds = {"val/accuracy": 0.875, "val/accuracy_low": 0.53, "val/accuracy_high": 0.98}
    assert measured == epoch | bounds


def test_settings_are_told_without_paths() -> None:
    told = config(SETTINGS.model_copy(update={"replay": "/home/someone/ward7.jsonl"}))
    assert told["lr"] == 1e-3
    assert told["target"] == "q_proj,v_proj,o_proj"
    assert "ward7" not in json.dumps(told)


def test_an_epoch_has_the_step_of_its_last_update_and_a_resumed_one_counts_on(tmp_path: Path) -> None:
    kept, warned = Kept(), list[str]()
    tracker = Tracker("wandb", kept.make, tmp_path / "logs", {}, warned.append)
    plan = Plan(5, 2, 2, 6, 100)
    for event in (plan, EPOCH, STEP, EPOCH):
        tracker(event)
    tracker.close()
    assert [step for step, _ in kept.rows] == [0, 3, 3]
    assert (kept.opened[0][0], kept.opened[0][3], kept.closed) == (tmp_path / "logs", 0, 1)
    again = Tracker("wandb", kept.make, tmp_path / "logs", {}, warned.append)
    for event in (Resumed(3, 6), plan, EPOCH):
        again(event)
    assert kept.opened[1][1] == kept.opened[0][1]  # the run's id
    assert kept.opened[1][3] == 3
    assert kept.rows[-1][0] == 3
    fresh = Tracker("wandb", kept.make, tmp_path / "logs", {}, warned.append)
    fresh(plan)
    assert kept.opened[2][1] != kept.opened[0][1]
    assert warned == []


def test_a_logger_that_fails_is_named_once_and_ends_nothing(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    class Broken(Kept):
        def write(self, figures: dict[str, float], step: int) -> None:
            super().write(figures, step)
            if step == 2:
                raise OSError("no space")

    broken, warned = Broken(), list[str]()
    tracker = Tracker("wandb", broken.make, tmp_path / "logs", {}, warned.append)
    run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS, listeners=[tracker])
    assert [step for step, _ in broken.rows] == [0, 1, 2]
    assert warned == ["wandb failed and is not logged to any more: OSError: no space"]


def test_nothing_is_written_where_no_event_is_heard(tmp_path: Path) -> None:
    """As on every rank but the first."""
    names = checked(["tensorboard"]) if find_spec("tensorboard") else ()
    with open_loggers(names, tmp_path / "l", SETTINGS, print):
        pass
    assert not (tmp_path / "l").exists()


def test_names_are_checked_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--log-to: no logger is called mlflow") as caught:
        checked(["tensorboard", "mlflow"])
    assert "tensorboard, wandb, trackio" in str(caught.value.hint)
    with pytest.raises(InputError, match="--log-to tensorboard,wandb: not installed") as caught:
        checked(["tensorboard", " wandb", "tensorboard"])
    assert 'pip install "mlx-medlora[tensorboard,wandb]"' in str(caught.value.hint)
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    with pytest.raises(InputError, match="not installed"):  # a directory that wandb left in the working one
        checked(["wandb"])
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda name: SimpleNamespace(origin="a.py"))
    assert checked(["trackio", ""]) == ("trackio",)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "someone/space")
    with pytest.raises(InputError, match="TRACKIO_SPACE_ID would send the figures elsewhere"):
        checked(["trackio"])


def stop_at(step: int) -> Any:
    def listen(event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            signal.raise_signal(signal.SIGINT)

    return listen


@needs("tensorboard")
def test_tensorboard_reads_back_each_figure_of_an_interrupted_run_once(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logs, output, warned = tmp_path / "logs", tmp_path / "adapter", list[str]()
    with (
        pytest.raises(Interrupted),
        open_loggers(("tensorboard",), logs, SETTINGS, warned.append) as loggers,
    ):
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[*loggers, stop_at(4)])
    extra = Tracker("tensorboard", opening.maker("tensorboard"), logs, {}, warned.append)
    for event in (
        Resumed(4, 6),
        Plan(5, 2, 2, 6, 1),
        STEP.__class__(**(vars(STEP) | {"step": 5, "loss": 99.0})),
    ):
        extra(event)  # updates after the checkpoint, of a process that died before it could save them
    extra.close()
    with open_loggers(("tensorboard",), logs, SETTINGS, warned.append) as loggers:
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=loggers, resume=True)
    assert warned == []
    read = EventAccumulator(str(logs))
    read.Reload()
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    steps = {row["step"]: row["loss"] for row in rows if row["event"] == "step"}
    found = {event.step: event.value for event in read.Scalars("train/loss")}
    assert len(read.Scalars("train/loss")) == 6
    assert found == pytest.approx(steps)
    losses = [row["val_loss"] for row in rows if row["event"] == "epoch"]
    assert [event.value for event in read.Scalars("val/loss")] == pytest.approx(losses)
    assert [event.step for event in read.Scalars("val/loss")] == [0, 3, 6]


@contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """An address, and what arrives there."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def hear() -> None:
            while not ended.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(1)
                    heard.append(connection.recv(200))

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", heard
        finally:
            ended.set()
            thread.join()


def train_apart(data: Path, output: Path, logger: str, address: str, *more: str) -> str:
    """`train --log-to`, in a process whose every proxy and server is `address`; its stdout."""
    away = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WANDB_BASE_URL", "HF_ENDPOINT")
    environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    environment |= dict.fromkeys(away, address) | {name.lower(): address for name in away[:3]}
    environment |= {"HOME": str(output.parent), "WANDB_API_KEY": "0" * 40}
    command = [sys.executable, "-m", "mlx_medlora.cli.app", "train", "--model", "tiny-medgemma", "--json"]
    command += ["--data", str(data), "--output", str(output), "--rank", "2", "--epochs", "2", "--no-features"]
    done = subprocess.run(
        [*command, "--log-to", logger, *more], capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "failed and is not logged" not in done.stderr, done.stderr
    return done.stdout


def everything(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


@needs("wandb")
def test_wandb_writes_figures_on_this_machine_and_calls_nobody(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapters" / "ward7"
    with listening() as (address, heard):
        told = json.loads(train_apart(data, output, "wandb", address))
    assert told["output"] == str(output)
    assert heard == []
    logs = output.parent / "logs" / "ward7"
    run = next((logs / "wandb").glob("offline-run-*"))
    assert (logs / "wandb.run_id").read_text().strip() in run.name
    written = everything(logs)
    assert b"val/loss" in written
    assert b"train/gradient_norm" in written
    for secret in (b"Patient Information", b"ERROR - ", b"case1", b"a.png", socket.gethostname().encode()):
        assert secret not in written
    assert str(data).encode() not in written


@needs("trackio")
def test_trackio_keeps_figures_in_the_log_directory_and_calls_nobody(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapters" / "ward7"
    with listening() as (address, heard):
        json.loads(train_apart(data, output, "trackio", address, "--log-dir", str(tmp_path / "l")))
    assert heard == []
    written = everything(tmp_path / "l" / "ward7")
    assert b"val/loss" in written
    assert b"Patient Information" not in written
    assert b"ERROR - " not in written


def test_the_environment_must_say_online_in_so_many_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_medlora.training.loggers.to_wandb import mode

    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert mode() == "offline"
    for said, meant in {"online": "online", "disabled": "disabled", "run": "offline", "": "offline"}.items():
        monkeypatch.setenv("WANDB_MODE", said)
        assert mode() == meant
