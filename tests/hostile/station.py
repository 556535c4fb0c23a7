"""Runs commands in one worker process, and says of each its status, words, seconds and growth.

`python station.py` is the worker: a process for each input would take minutes to start them all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import resource
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 5.0  # of processor time: other processes of the machine have no part in it
GROWTH = 1 << 30
_HANGS = 90.0  # seconds on the wall; whoever waits for something waits for ever
_MOST = 8 << 30  # bytes of address space beyond the start, lest a failing test takes the machine with it


@dataclass(frozen=True)
class Outcome:
    """How a command ended. `status` is None where it hung or its process died; `growth` in bytes."""

    status: int | None
    said: str
    seconds: float
    growth: int

    @property
    def faults(self) -> list[str]:
        """What no input may do, whether it is refused or not."""
        found = [] if self.status in (0, 2) else [f"status {self.status}"]
        found += ["a traceback"] if "Traceback" in self.said else []
        found += ["an internal error"] if "internal error" in self.said else []
        found += [f"{self.seconds:.1f} s"] if self.seconds > SECONDS else []
        found += [f"{self.growth / 1e9:.2f} GB"] if self.growth > GROWTH else []
        return found


class Station:
    """The worker, started when it is needed, and again after it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str] = queue.Queue()

    def run(self, arguments: list[str]) -> Outcome:
        """Run one command line."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        try:
            line = self._answers.get(timeout=_HANGS)
        except queue.Empty:
            line = ""
        if line:
            return Outcome(**json.loads(line))
        self.close()
        return Outcome(None, "it hung, or its process died", _HANGS, 0)

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process, self._answers = None, queue.Queue()

    def _start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"},
        )
        answers = self._answers = queue.Queue()
        threading.Thread(target=_pass_on, args=(self._process.stdout, answers), daemon=True).start()
        return self._process


def _pass_on(stream: Any, answers: queue.Queue[str]) -> None:
    for line in stream:
        answers.put(line)
    answers.put("")


def work() -> None:
    """Answer each line of arguments with a line that says how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    questions = os.fdopen(os.dup(0), "r")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from mlx_medlora.cli.app import run

    with contextlib.suppress(ValueError, OSError):  # macOS refuses
        limit = _status("VmSize") + _MOST
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for line in questions:
        words = io.StringIO()
        before, spent = _forget_peak(), sum(os.times()[:4])
        with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
            try:
                status: int | None = run(json.loads(line))
            except BaseException:
                traceback.print_exc()
                status = None
        seconds, growth = sum(os.times()[:4]) - spent, _status("VmHWM") - before
        print(json.dumps(vars(Outcome(status, words.getvalue()[:20_000], seconds, growth))), file=answers)
        answers.flush()


def _forget_peak() -> int:
    """The memory in use now, in bytes; on Linux the peak begins anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> int:
    """A figure of this process in bytes; without /proc the highest use so far stands for both."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    work()
