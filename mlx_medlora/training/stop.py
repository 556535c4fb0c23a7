"""Ctrl-C and SIGTERM: the first lets the update end and the state be saved, the second ends at once."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mlx_medlora.handlers import ENDING, handled

STATUS = 130
_FIRST = "\nStopping: this update is finished and saved first. Ctrl-C again stops at once.\n"
_FIRST_BEFORE = "\nStopping.\n"
_SECOND = "\nStopped at once; the last checkpoint is whole, and --resume continues from it.\n"
_SECOND_BEFORE = "\nStopped at once.\n"
_PATIENCE = 5.0  # seconds
_SHOW_CURSOR = "\x1b[?25h"


class Stop:
    """A context in which the two signals ask for an end; `requested` says that one did.

    `has_updates` is set once there are updates, which an end saves: until then it is not spoken of them.

    A second signal of the same kind ends the process from a thread of its own, also while the main thread
    computes and no Python runs. Of the same kind, since mlx.launch sends SIGTERM to ranks that are already
    ending after Ctrl-C. What the parent process ignores is not caught, nor anything outside the main thread.
    """

    def __init__(self, quiet: bool = False) -> None:
        """`quiet`: say nothing of the first signal."""
        self.requested = False
        self.has_updates = False
        self.quiet = quiet
        self._raising = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        before = handled()
        if before:
            self._ear, mouth = socket.socketpair()
            mouth.setblocking(False)
            self._mouth = mouth
            self._wakeup = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
            self._before = before
            for number in before:
                signal.signal(number, self._heard)
            self._listener = threading.Thread(target=self._listen, daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._mouth.close()
            self._listener.join(_PATIENCE)  # what it has to say comes before what ended the run
            self._before = {}

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal raises KeyboardInterrupt: for work that can be left half done, and is long."""
        if self.requested:
            raise KeyboardInterrupt
        self._raising = True
        try:
            yield
        finally:
            self._raising = False

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._raising:
            self._raising = False
            raise KeyboardInterrupt

    def _listen(self) -> None:
        """In a thread: speak at the first signal, end the process at the second of its kind."""
        seen: set[int] = set()
        with self._ear as ear:
            while found := ear.recv(1):
                number = found[0]
                if number not in ENDING:
                    continue
                if number in seen:
                    _say(_SECOND if self.has_updates else _SECOND_BEFORE)
                    os._exit(STATUS)
                seen.add(number)
                if len(seen) == 1 and not self.quiet:
                    _say(_FIRST if self.has_updates else _FIRST_BEFORE)


def _say(text: str) -> None:
    """Straight to stderr: the main thread may hold the lock of the stream."""
    try:
        terminal = os.isatty(sys.__stderr__.fileno()) if sys.__stderr__ else False
        os.write(2, (text + (_SHOW_CURSOR if terminal else "")).encode())
    except OSError:
        return
