"""Ctrl-C and SIGTERM: which of them this process may handle."""

from __future__ import annotations

import signal
import threading
from typing import Any

ENDING = (signal.SIGINT, signal.SIGTERM)


def handled() -> dict[signal.Signals, Any]:
    """The signals that end a command, with their handlers as they are; none outside the main thread.

    One that the parent process ignores is left out, and so stays ignored; so is one whose handler was not
    set from Python, which could not be put back.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in ENDING}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}
