"""Kill training again and again, at random instants, and resume it each time: nothing may be lost.

    python scripts/kill_campaign.py --kills 200

Runs of the embedded model, with a checkpoint after each update, are ended by SIGKILL and resumed until they
are complete; then all that they wrote, adapters and metrics.jsonl included, must be the bytes of a run that
was never ended (seconds and memory apart). Half of the kills wait for a checkpoint that is being written.
Prints what was counted; exits with 1 on any difference or lost run.

Most processes are forked from one that has imported everything but computed nothing, since importing would
take nine tenths of the time; those that are to be killed while they start are started from nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = (
    *("--epochs", "3", "--batch-size", "2", "--accumulate", "1", "--rank", "2", "--lr", "1e-3"),
    *("--dropout", "0.1", "--checkpoint-every", "0", "--keep", "2"),
)
PATIENCE = 120  # seconds for a process to come to anything
WRITING = 0.012  # seconds that a checkpoint takes here, about


@dataclass
class Count:
    """What happened. `within` are kills that left a checkpoint half written or half put in its place."""

    kills: int = 0
    within: int = 0
    before_first: int = 0
    runs: int = 0
    faults: list[str] = field(default_factory=list)


class Process:
    """`mlx-medlora` with these arguments, its words in a file; `cold`: started from nothing, not forked."""

    def __init__(self, arguments: list[str], said: Path, *, cold: bool) -> None:
        self.said, self.status = said, None  # type: Path, int | None
        if cold:
            line = [sys.executable, "-m", "mlx_medlora.cli.app", *arguments]
            with said.open("w") as stream:
                self.pid = subprocess.Popen(line, cwd=ROOT, stdout=stream, stderr=stream).pid
            return
        self.pid = os.fork()
        if self.pid == 0:
            _become(arguments, said)

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def kill(self) -> None:
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        while not self.ended():
            time.sleep(0.01)
        return self.status if self.status is not None else -1

    def words(self) -> str:
        return self.said.read_text(errors="replace").strip()[-400:]


def _become(arguments: list[str], said: Path) -> None:
    """In the forked process: run the command line, and end without going back."""
    status = 70
    try:
        descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        from mlx_medlora.cli.app import run

        status = run(arguments)
    finally:
        os._exit(status)


def import_everything() -> None:
    """What a training process imports; no array is computed, so that no thread is there to be forked."""
    import transformers

    import mlx_medlora.cli.app
    import mlx_medlora.evaluation.runner
    import mlx_medlora.training.run  # noqa: F401

    assert transformers.Gemma3Processor
    assert transformers.Gemma3ImageProcessorPil
    assert transformers.AutoTokenizer


def start(data: Path, output: Path, *, cold: bool = False) -> Process:
    """Begin the run for `output`, or continue it where an update is saved."""
    place = ["--model", "tiny-medgemma", "--data", str(data), "--output", str(output)]
    features = ["--features", str(output.parent / "features")]
    resume = ["--resume"] if newest(output) >= 1 else []
    said = output.parent / f"{output.name}.txt"
    return Process(["train", *place, *OPTIONS, *features, *resume], said, cold=cold)


def contents(output: Path) -> dict[str, bytes]:
    """All files that equal runs have in common; run.json without seconds and memory."""
    found = {p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    found = {name: content for name, content in found.items() if Path(name).name != "timings.jsonl"}
    run = json.loads(found["run.json"])
    for record in (run, *run["epochs"]):
        for name in ("seconds", "peak_memory"):
            record.pop(name, None)
    return {**found, "run.json": json.dumps(run).encode()}


def checkpoints_of(output: Path) -> Path:
    return output.parent / f".{output.name}.run" / "checkpoints"


def newest(output: Path) -> int:
    """The step of the newest checkpoint, one that is just being replaced included; -1 without any."""
    try:
        names = [path.name for path in checkpoints_of(output).iterdir()]
    except FileNotFoundError:
        return -1
    steps = [name.removeprefix(".").removeprefix("step-").removesuffix(".old") for name in names]
    return max((int(step) for step in steps if step.isdigit()), default=-1)


def half_done(output: Path) -> bool:
    """Whether a checkpoint is being written, or put in the place of another."""
    return any(checkpoints_of(output).glob(".step-*"))


def wait(process: Process, output: Path, chance: random.Random, aim: str) -> None:
    """Until the instant to kill at: while it starts, anywhere, or while a checkpoint is written."""
    reached, end = newest(output), time.monotonic() + PATIENCE
    if aim == "start":
        time.sleep(chance.uniform(0, 4))
        return
    further = chance.randrange(4)  # some runs are to get on
    while newest(output) <= reached + further and not process.ended() and time.monotonic() < end:
        time.sleep(0.001)
    if aim == "anywhere":
        time.sleep(chance.uniform(0, 0.3))
        return
    while not half_done(output) and not process.ended() and time.monotonic() < end:
        pass
    time.sleep(chance.uniform(0, WRITING))


def kill_once(data: Path, output: Path, chance: random.Random, count: Count) -> None:
    """Start or resume the run, and kill it at some instant, unless it is complete before."""
    before = newest(output)
    aim = chance.choices(("write", "anywhere", "start"), (5, 4, 1))[0]
    process = start(data, output, cold=aim == "start")
    wait(process, output, chance, aim)
    process.kill()
    status = process.wait()
    if status == -signal.SIGKILL:
        count.kills += 1
        count.before_first += before < 1
        count.within += half_done(output)
    elif status:
        count.faults.append(f"ended with {status}: {process.words()}")
    if not output.exists() and newest(output) < before:
        count.faults.append(f"a checkpoint was lost: update {before} before, {newest(output)} after")


def finish(data: Path, output: Path) -> str | None:
    """Complete the run; what it said, where it could not."""
    process = start(data, output, cold=True)
    return process.words() if process.wait() else None


def compare(output: Path, whole: dict[str, bytes]) -> list[str]:
    found = contents(output)
    names = sorted(name for name in {*found, *whole} if found.get(name) != whole.get(name))
    return [f"{output.name}: {name} differs" for name in names]


def campaign(kills: int, seed: int, root: Path) -> Count:
    """Kill `kills` processes of as many runs as that takes, all under the directory `root`."""
    data, count, chance = ROOT / "lora_training", Count(), random.Random(seed)
    reference = root / "whole"
    if said := finish(data, reference):
        raise SystemExit(f"the run to compare with failed: {said}")
    whole = contents(reference)
    while count.kills < kills and not count.faults:
        count.runs += 1
        output = root / f"run-{count.runs}"
        while not output.exists() and count.kills < kills and not count.faults:
            kill_once(data, output, chance, count)
        if not count.faults and not output.exists() and (said := finish(data, output)):
            count.faults.append(f"the run is lost: {said}")
        if output.exists():
            count.faults += compare(output, whole)
        print(
            f"{count.kills} kills, {count.within} within a checkpoint's writing, {count.runs} runs",
            flush=True,
        )
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the instants; the machine has its part in them"
    )
    given = parser.parse_args()
    started = time.monotonic()
    import_everything()
    with tempfile.TemporaryDirectory() as place:
        count = campaign(given.kills, given.seed, Path(place))
    print(
        f"{count.kills} SIGKILLs in {count.runs} runs ({time.monotonic() - started:.0f} s): "
        f"{count.within} within the writing of a checkpoint, {count.before_first} before the first update "
        f"was saved; {len(count.faults)} faults"
    )
    for fault in count.faults:
        print(f"FAULT {fault}")
    return 1 if count.faults else 0


if __name__ == "__main__":
    sys.exit(main())
