"""Ctrl-C and SIGTERM while a command runs: both end it with its partial output removed."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from mlx_medlora.errors import MedloraError

TAKEN = (signal.SIGINT, signal.SIGTERM)


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
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.getsignal(number) for number in TAKEN}
            left = (signal.SIG_IGN, None)  # None: not set from Python, and so not to be given back
            self._before = {number: handler for number, handler in before.items() if handler not in left}
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
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.ended or (number == signal.SIGTERM and _ours_is_on_its_way()):
            return
        raise KeyboardInterrupt


def _ours_is_on_its_way() -> bool:
    error = sys.exc_info()[1]
    while error is not None and not isinstance(error, MedloraError):
        error = error.__context__
    return error is not None
