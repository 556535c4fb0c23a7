"""Watching a run: `metrics.jsonl` for programs, a bar on stderr for people."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mlx_medlora.training.events import Epoch, Event, Features, Plan, Step

GIB = 2**30


class MetricsFile:
    """Appends every update and every epoch to `path`, one JSON object a line, as they happen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        """Write an update or an epoch; other events are left out."""
        if isinstance(event, (Step, Epoch)):
            row = {"event": type(event).__name__.lower(), **asdict(event)}
            with self.path.open("a", encoding="utf-8", newline="\n") as stream:
                stream.write(json.dumps(row, allow_nan=False) + "\n")


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
        elif isinstance(event, Plan):
            self._begin(event)
        elif isinstance(event, Step) and self.plan is not None:
            self._move(f"epoch {event.epoch}/{self.plan.epochs}", event.step, self.plan.steps, status(event))
        elif isinstance(event, Epoch):
            self.console.print(summary(event), highlight=False, soft_wrap=True)

    def _begin(self, plan: Plan) -> None:
        self.plan = plan
        rows = f"{plan.rows} rows, {plan.validation_rows} for validation"
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
        parts.append(f"accuracy {epoch.val_accuracy:.1%}")
    if epoch.best and epoch.val_loss is not None:
        parts.append("best so far")
    title = f"epoch {epoch.epoch}" if epoch.epoch else "before training"
    return f"{title}: {', '.join(parts) or 'nothing measured'}"
