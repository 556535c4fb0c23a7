"""Loggers by their names: checked before a run, opened when it begins, closed when it ends."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from mlx_medlora.errors import InputError
from mlx_medlora.training.events import Epoch, Event, Listener, Plan, Resumed, Step
from mlx_medlora.training.loggers.figures import Config, config, figures
from mlx_medlora.training.settings import TrainSettings

NAMES = ("tensorboard", "wandb", "trackio")
RUN_ID = "run_id"
_AWAY = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_WEBHOOK_URL")

Warn = Callable[[str], None]


class Writer(Protocol):
    """One logger, open. It is made as `Writer(directory, run_id, config, step)`.

    `directory` exists and is the run's own; `run_id` is the same whenever the run is continued; `step` is
    the last update that counts, 0 for a new run: what was logged after it is void.
    """

    def write(self, figures: dict[str, float], step: int) -> None:
        """Log figures by name at an update."""

    def close(self) -> None:
        """Flush and end."""


MakeWriter = Callable[[Path, str, Config, int], Writer]


def checked(names: Sequence[str]) -> tuple[str, ...]:
    """`names` without repeats. Raises InputError for an unknown one, or one that is not installed."""
    wanted = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if unknown := [name for name in wanted if name not in NAMES]:
        raise InputError(
            f"--log-to: no logger is called {', '.join(unknown)}", hint=f"There are {', '.join(NAMES)}."
        )
    if absent := [name for name in wanted if not _installed(name)]:
        raise InputError(
            f"--log-to {','.join(absent)}: not installed",
            hint=f'Install it: pip install "mlx-medlora[{",".join(absent)}]"',
        )
    if "trackio" in wanted and (away := [name for name in _AWAY if os.environ.get(name)]):
        raise InputError(
            f"--log-to trackio: {', '.join(away)} would send the figures elsewhere",
            hint="Unset it: here trackio writes to this machine alone.",
        )
    return wanted


def _installed(name: str) -> bool:
    """Whether there is such a package; a mere directory of that name, as wandb leaves behind, is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


@contextmanager
def open_loggers(
    names: Sequence[str], directory: Path, settings: TrainSettings, warn: Warn
) -> Iterator[list[Listener]]:
    """Yield a listener for each name of `checked`; give them to `run_training`.

    Nothing is written before the run begins, so ranks that are not heard write nothing. A logger that
    fails is named to `warn` once and heard no more: it never ends a run.
    """
    trackers = [Tracker(name, maker(name), directory, config(settings), warn) for name in names]
    try:
        yield list(trackers)
    finally:
        for tracker in trackers:
            tracker.close()


def maker(name: str) -> MakeWriter:
    """What opens a logger of that name; its package is imported then, so that a broken one ends no run."""

    def make(directory: Path, run_id: str, config: Config, step: int) -> Writer:
        module: Any = import_module(f"mlx_medlora.training.loggers.to_{name}")
        opened: Writer = module.open_writer(directory, run_id, config, step)
        return opened

    return make


class Tracker:
    """A listener that hands a run's figures to one logger."""

    def __init__(self, name: str, make: MakeWriter, directory: Path, config: Config, warn: Warn) -> None:
        self.name, self.make, self.directory = name, make, directory
        self.config, self.warn = config, warn
        self.step, self.resumed = 0, False
        self.writer: Writer | None = None

    def __call__(self, event: Event) -> None:
        """Log an update or an epoch; open when the run begins."""
        if isinstance(event, Resumed):
            self.step, self.resumed = event.step, True
        elif isinstance(event, Plan):
            self._try(self._open)
        elif isinstance(event, (Step, Epoch)) and self.writer is not None:
            self.step = event.step if isinstance(event, Step) else self.step
            writer, step = self.writer, self.step
            self._try(lambda: writer.write(figures(event), step))

    def close(self) -> None:
        """End the logger's part, where it has begun."""
        if self.writer is not None:
            self._try(self.writer.close)
            self.writer = None

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.writer = self.make(
            self.directory, run_id(self.directory, self.name, self.resumed), self.config, self.step
        )

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # whatever a logger raises is no reason to lose a run
            failed, self.writer = self.writer, None
            if failed is not None:
                with suppress(Exception):
                    failed.close()
            self.warn(f"{self.name} failed and is not logged to any more: {type(error).__name__}: {error}")


def run_id(directory: Path, name: str, resumed: bool) -> str:
    """The id that `name` knows the run by: a new one, or that of the run which is continued."""
    path = directory / f"{name}.{RUN_ID}"
    if resumed and path.is_file() and (found := path.read_text(encoding="utf-8").strip()):
        return found
    made = uuid.uuid4().hex[:12]
    path.write_text(made + "\n", encoding="utf-8")
    return made
