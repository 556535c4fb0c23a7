"""A process that has imported everything and forks a child for each command line, to be killed or starved.

Importing takes seconds, most commands a tenth of one. Requests and replies are lines of JSON.
Nothing is computed in this process, so that no thread of MLX's is there to be forked.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BOUNDARIES = ("replace", "rename", "fsync", "mkdir")  # clearing what a kill left makes no such call


def import_everything() -> None:
    import transformers

    import mlx_medlora.cli.app
    import mlx_medlora.demo
    import mlx_medlora.evaluation.runner
    import mlx_medlora.lora.exchange
    import mlx_medlora.lora.fuse
    import mlx_medlora.training.run  # noqa: F401

    assert transformers.Gemma3Processor
    assert transformers.Gemma3ImageProcessorPil
    assert transformers.AutoTokenizer


class Instants:
    """Counts the instants just before and just after each call that moves or flushes something.

    At number `die_at` the process kills itself: odd numbers are before a call, even ones after it.
    """

    def __init__(self, die_at: int | None, log: Path) -> None:
        self.die_at, self.log, self.count = die_at, log, 0
        for name in BOUNDARIES:
            setattr(os, name, self._watched(getattr(os, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._instant()
            found = call(*arguments, **named)
            self._instant()
            return found

        return watched

    def _instant(self) -> None:
        self.count += 1
        if self.count == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self) -> None:
        self.log.write_text(str(self.count))


def child(request: dict[str, Any], said: Path, log: Path) -> None:
    """Run the command line under the limits asked for; never returns."""
    status = 70
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        signal.alarm(100)  # nothing may hang
        for name, limit in request.get("limits", {}).items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        if script := request.get("before"):
            exec(script, {})
        instants = Instants(request.get("die_at"), log)
        from mlx_medlora.cli.app import run

        status = run(request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        instants.write()
    finally:
        os._exit(status)


def serve(request: dict[str, Any], place: Path) -> dict[str, Any]:
    said, log = place / "said", place / "count"
    log.write_text("0")
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        child(request, said, log)
    if (seconds := request.get("after")) is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)  # of a child that has not been waited for: the number is still its own
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {
        "status": status,
        "instants": int(log.read_text() or 0),  # empty where it was killed while it wrote this
        "said": said.read_text(errors="replace"),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    import_everything()
    with tempfile.TemporaryDirectory() as place:
        for line in sys.stdin:
            print(json.dumps(serve(json.loads(line), Path(place))), file=answers, flush=True)


if __name__ == "__main__":
    main()
