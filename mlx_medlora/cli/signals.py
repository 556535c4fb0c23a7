"""Ctrl-C and SIGTERM while a command runs: both end it with its partial output removed."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

from mlx_medlora.errors import MedloraError
from mlx_medlora.handlers import handled


class Signals:
    """A context in which SIGTERM raises KeyboardInterrupt as Ctrl-C does, until `ended` is set.

    A SIGTERM changes nothing where an error of ours is already on its way: mlx.launch sends one to the ranks
    whose peer is gone. Training has handlers of its own, which save the run first. A signal that the parent
    process ignores stays ignored; outside the main thread none is taken.

    `ended`: from here on no signal has an effect, so that what ended the command is said whole. A flag rather
    than other handlers: Python runs a handler some time after its signal came, and may run it while the next
    one is being set. An attribute rather than a method: between two instructions no handler runs.
    """

    def __init__(self) -> None:
        self.ended = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = handled()
        for number in self._before:
            signal.signal(number, self._heard)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended = True
        for number in reversed(self._before):  # Ctrl-C last: its handler may raise
            signal.signal(number, self._before[number])

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.ended or (number == signal.SIGTERM and _ours_is_on_its_way()):
            return
        raise KeyboardInterrupt


def end_without_a_word() -> None:
    """From here on Ctrl-C ends the process without a traceback: while Python closes."""
    if signal.SIGINT in handled():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ours_is_on_its_way() -> bool:
    error, seen = sys.exc_info()[1], set[int]()
    while error is not None and id(error) not in seen and not isinstance(error, MedloraError):
        seen.add(id(error))
        error = error.__context__
    return isinstance(error, MedloraError)
