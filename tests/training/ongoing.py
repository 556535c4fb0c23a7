"""Runs that are ended, and what is compared of them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_medlora.errors import Interrupted
from mlx_medlora.training.events import Event, Step
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

# five rows: batches of two, two and one; windows of two batches and one
SETTINGS = TrainSettings(epochs=3, batch_size=2, accumulate=2, lr=1e-3, rank=2, warmup=0.3, dropout=0.2)
Listen = Callable[[Event], None]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate(SETTINGS.model_dump() | changes)


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the timings; run.json without what a clock or the memory says."""
    found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    found = {name: content for name, content in found.items() if Path(name).stem != "timings"}
    if "run.json" in found:
        run = json.loads(found["run.json"])
        del run["seconds"], run["peak_memory"]
        for epoch in run["epochs"]:
            del epoch["seconds"]
        found["run.json"] = json.dumps(run).encode()
    found.pop("owner.json", None)
    return found


def at(kind: type[Event], number: int, act: Callable[[], object]) -> Listen:
    """Acts when update or epoch `number` is told."""

    def listen(event: Event) -> None:
        if isinstance(event, kind) and (event.step if isinstance(event, Step) else event.epoch) == number:
            act()

    return listen


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def work_of(output: Path) -> Path:
    return output.parent / f".{output.name}.run"


def steps_of(output: Path) -> list[str]:
    return sorted(path.name for path in (work_of(output) / "checkpoints").iterdir())


def interrupted(model: Path, data: Path, output: Path, step: int = 5) -> None:
    with pytest.raises(Interrupted):
        run_training(model, data, output, settings(checkpoint_every=0), listeners=[at(Step, step, ctrl_c)])
