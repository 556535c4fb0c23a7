"""Command lines in children of a process that has imported everything, and what they leave."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (-9 where it was killed), what it said, instants and seconds."""

    status: int
    instants: int
    said: str
    seconds: float


class Forked:
    """`mlx-medlora` in a child of a process that has imported everything; see forked.py."""

    def __init__(self) -> None:
        program = [sys.executable, str(Path(__file__).with_name("forked.py"))]
        self.process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str | Path, **request: Any) -> Ended:
        """Run a command line. `die_at`: kill it at that instant; `after`: after so many seconds; `limits`:
        of module `resource`, by name; `before`: Python to run in it first.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps({"arguments": [str(argument) for argument in arguments], **request})
        print(line, file=self.process.stdin, flush=True)
        return Ended(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.communicate()


def contents(directory: Path) -> dict[str, str]:
    """SHA-256 of each file under `directory`."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {p.relative_to(directory).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
