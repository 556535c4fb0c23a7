"""Watching a run: `metrics.jsonl` and `timings.jsonl` for programs, a bar on stderr for people."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mlx_medlora.errors import InputError
from mlx_medlora.features.report import FeatureUse
from mlx_medlora.files import private_opener, sync_path
from mlx_medlora.percent import between, percent
from mlx_medlora.training.events import Epoch, Event, Features, Notice, Plan, Resumed, States, Step

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
GIB = 2**30


# What two equal runs do not have in common.
_TIMES = ("rows_per_second", "seconds_left", "peak_memory", "seconds")

_REPLAY = ("replay_rows", "replay_tokens")  # left out where nothing is replayed


class MetricsFile:
    """Appends every update and every epoch to two files, one JSON object a line, as they happen.

    `metrics.jsonl` holds what the run computed, the same bytes for the same run; `timings.jsonl` how fast.
    """

    def __init__(self, directory: Path) -> None:
        self.metrics, self.timings = directory / METRICS, directory / TIMINGS

    def __call__(self, event: Event) -> None:
        """Write an update or an epoch; other events are left out."""
        if not isinstance(event, (Step, Epoch)):
            return
        row = asdict(event)
        place = {"event": type(event).__name__.lower()} | {k: row[k] for k in ("step", "epoch") if k in row}
        absent = {key for key in _REPLAY if row.get(key) is None}
        _append(self.metrics, place | {key: row[key] for key in row if key not in {*_TIMES, *absent}})
        _append(self.timings, place | {key: row[key] for key in row if key in _TIMES})

    def sizes(self) -> tuple[int, int]:
        """Bytes of `metrics.jsonl` and `timings.jsonl`, safely on the disk."""
        return _synced(self.metrics), _synced(self.timings)

    def cut(self, sizes: tuple[int, int]) -> None:
        """Go back to `sizes`: what was written later is written again. Raises InputError where it is less."""
        for path, size in zip((self.metrics, self.timings), sizes, strict=True):
            found = path.stat().st_size if path.exists() else 0
            if found < size:
                raise InputError(f"has {found} bytes, {size} were in it before", path=path, hint=_LOST)
            if found:
                os.truncate(path, size)


_LOST = "It was cut or removed, so this run cannot be continued exactly: train again."


def _append(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8", newline="\n", opener=private_opener) as stream:
        stream.write(json.dumps(row, allow_nan=False) + "\n")


def _synced(path: Path) -> int:
    if not path.exists():
        return 0
    sync_path(path)
    return path.stat().st_size


class ProgressBar:
    """Loss, rate, time left and memory on stderr; use it as a context, and as a listener inside.

    Without a terminal there is no bar, only a line for each epoch.
    """

    def __init__(self, console: Console | None = None) -> None:
        stderr = sys.stderr
        self.console = console or Console(file=stderr, width=None if stderr.isatty() else 110)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(
            *columns, console=self.console, transient=True, disable=not self.console.is_terminal
        )
        self.task: TaskID | None = None
        self.plan: Plan | None = None

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Features):
            self._move("looking at images", event.done, event.total, "")
        elif isinstance(event, FeatureUse):
            self._say(event.sentence())
        elif isinstance(event, Notice):
            self._say(f"Warning: {event.text}")
        elif isinstance(event, States):
            self._move("frozen layers", event.done, event.total, "")
        elif isinstance(event, Plan):
            self._begin(event)
        elif isinstance(event, Step) and self.plan is not None:
            self._move(f"epoch {event.epoch}/{self.plan.epochs}", event.step, self.plan.steps, status(event))
        elif isinstance(event, Epoch):
            self._say(summary(event))
        elif isinstance(event, Resumed):
            for line in (f"continuing after update {event.step} of {event.steps}", *event.remarks):
                self._say(line)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        replayed = f" ({plan.replay_rows} of them replayed)" if plan.replay_rows else ""
        rows = f"{plan.rows} rows{replayed}, {plan.validation_rows} for validation"
        self.console.print(f"{plan.trainable:,} trainable parameters; {rows}; {plan.steps} updates")
        if not plan.validation_rows:
            self.console.print("no validation split: the last epoch's adapter counts as the best")
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None

    def _move(self, title: str, done: int, total: int, text: str) -> None:
        if self.task is None:
            self.task = self.bar.add_task(title, total=total, status=text)
        self.bar.update(self.task, description=title, completed=done, total=total, status=text)


def status(step: Step) -> str:
    """Loss, rate and memory of one update in a few words."""
    memory = step.peak_memory / GIB
    return f"loss {step.loss:.4f}  {step.rows_per_second:.2f} rows/s  {memory:.2f} GiB"


def summary(epoch: Epoch) -> str:
    """One line on an epoch."""
    parts = []
    if epoch.train_loss is not None:
        parts.append(f"train loss {epoch.train_loss:.4f}")
    if epoch.val_loss is not None:
        parts.append(f"validation loss {epoch.val_loss:.4f}")
    if epoch.perplexity is not None:
        parts.append(f"perplexity {epoch.perplexity:.4g}")
    if epoch.val_accuracy is not None:
        parts.append(accuracy(epoch.val_accuracy, epoch.val_accuracy_interval))
    if epoch.best and epoch.val_loss is not None:
        parts.append("best so far")
    title = f"epoch {epoch.epoch}" if epoch.epoch else "before training"
    return f"{title}: {', '.join(parts) or 'nothing measured'}"


def accuracy(share: float, interval: tuple[float, float] | None) -> str:
    """`accuracy 87.5 % (64.0-96.5)`: the interval holds 95 %."""
    bounds = "" if interval is None else f" ({between(interval)})"
    return f"accuracy {percent(share)}{bounds}"
