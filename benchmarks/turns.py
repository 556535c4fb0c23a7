"""Contestants that take turns, each in a process of its own: what the machine does besides hits all alike.

A contestant is a class with `load()`, `prepare()` and `turn(steps)`, named as `module:Class`. Its process is
kept alive and waits on a pipe between its turns, so that it costs no processor time then. Its memory is what
its turns add at their peak to what is resident after `load()`.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any, Protocol

HERE = Path(__file__).resolve()
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Contestant(Protocol):
    """What a child process runs."""

    def load(self) -> None:
        """Bring the weights into memory, and nothing else."""

    def prepare(self) -> None:
        """Everything else that is not measured: the adapter, the batch, the optimiser."""

    def turn(self, steps: int) -> Turn:
        """Work `steps` times."""


@dataclass(frozen=True)
class Turn:
    """One turn. `seconds` of each step; `value` is the last step's result (its loss, or a rate).

    `cpu` is the processor time of a step, all threads together: other jobs on the machine stretch it less.
    Memory in bytes over what was there after loading: `resident` as the system counts it, which includes
    what an allocator keeps for later; `active` the live arrays, as MLX or torch on a GPU counts them.
    """

    seconds: list[float]
    value: float
    active: int | None = None
    resident: int = 0
    cpu: float = 0.0

    @property
    def step(self) -> float:
        """The median step."""
        return median(self.seconds)


class Player:
    """The parent's handle on one contestant's process."""

    def __init__(self, name: str, spec: str, options: Mapping[str, Any], threads: int) -> None:
        self.name = name
        self.log = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115  (closed by `close`)
        self.process = subprocess.Popen(
            [sys.executable, str(HERE), spec, json.dumps(dict(options))],
            env=os.environ | dict.fromkeys(THREADS, str(threads)) | {"TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        self._answer()

    def turn(self, steps: int) -> Turn:
        """Let the contestant work. Raises RuntimeError with its last words where it failed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return Turn(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.log.seek(0)
            raise RuntimeError(f"{self.name} failed:\n{self.log.read()[-3000:]}")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.log.close()


def take_turns(
    players: Sequence[Player], rounds: int, *, warmup: int, steps: int, say: Callable[[str], None] = print
) -> dict[str, list[Turn]]:
    """`rounds` turns of each player, A B C A B C, each of `steps`, after `warmup` steps that do not count."""
    found: dict[str, list[Turn]] = {player.name: [] for player in players}
    for player in players:
        if warmup:
            player.turn(warmup)
    for number in range(1, rounds + 1):
        for player in players:
            found[player.name].append(player.turn(steps))
        said = ", ".join(f"{player.name} {found[player.name][-1].step:.3f} s" for player in players)
        say(f"round {number} of {rounds}: {said}")
    return found


def ratios(of: Sequence[Turn], to: Sequence[Turn]) -> list[float]:
    """Step time of `of` over that of `to`, round by round, sorted."""
    return sorted(a.step / b.step for a, b in zip(of, to, strict=True))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, then the least and the most."""
    ordered = sorted(values)
    return f"{median(ordered):.{digits}f} ({ordered[0]:.{digits}f} to {ordered[-1]:.{digits}f})"


def resident() -> int:
    """Bytes of this process in memory now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Begin the peak anew; only Linux can."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def peak_resident() -> int:
    """The most bytes in memory since `reset_peak`; elsewhere than on Linux, since the process began."""
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """The child: answer each line with a number of steps on stdin by one JSON line on the first stdout."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # stray prints of any library go to the log
    module, name = sys.argv[1].split(":")
    contestant: Contestant = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    contestant.load()
    before = resident()
    contestant.prepare()
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        reset_peak()
        start = process_time()
        turn = contestant.turn(int(line))
        cpu = (process_time() - start) / len(turn.seconds)
        found = replace(turn, resident=peak_resident() - before, cpu=cpu)
        print(json.dumps(asdict(found)), file=answers, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.exit(1)
