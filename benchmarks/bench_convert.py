"""Claim: converting MedGemma-4B to 4 bits takes less time and memory than mlx-vlm's converter.

    python benchmarks/bench_convert.py --checkpoint /var/tmp/medgemma-4b-random

Both convert the same random checkpoint of 4B's shape (benchmarks/full_size.py writes it if it is not there;
8.6 GB, and 3.4 GB for the output), each in a process of its own, in turns, with imports; the source is read
into the page cache before each. Ours flushes its output to the disk, which is part of its time; mlx-vlm's
is flushed after its time is taken. `--shape tiny` only shows that the file runs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from full_size import SHAPES, TOKENIZER, write_checkpoint

ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1"}
RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of ru_maxrss


@dataclass(frozen=True)
class Cost:
    """What one run took: seconds on the clock, processor seconds, and peak resident bytes."""

    seconds: float
    processor: float
    resident: float


def ours(source: Path, output: Path) -> list[str]:
    program = "from mlx_medlora.cli.app import main; main()"
    return [sys.executable, "-c", program, "convert", str(source), str(output), "--bits", "4"]


def theirs(source: Path, output: Path) -> list[str]:
    paths = ["--hf-path", str(source), "--mlx-path", str(output)]
    packed = ["-q", "--q-bits", "4", "--q-group-size", "64"]
    return [sys.executable, "-m", "mlx_vlm", "convert", *paths, *packed]


CONVERTERS = {"ours": ours, "mlx-vlm": theirs}


def measure(name: str, source: Path, scratch: Path) -> Cost:
    """Run one converter in a child process; its output is removed."""
    for file in source.glob("*.safetensors"):
        subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
    os.sync()
    output = scratch / name
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(CONVERTERS[name](source, output), stdout=said, stderr=said, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if status:
            said.seek(0)
            sys.exit(f"{name} failed:\n{said.read().decode(errors='replace')[-3000:]}")
    shutil.rmtree(output)
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * RSS_UNIT)


def compare(source: Path, scratch: Path, rounds: int) -> None:
    """Print every round, then ratios of ours to theirs with their spread."""
    found: dict[str, list[Cost]] = {name: [] for name in CONVERTERS}
    for turn in range(rounds):
        order = list(CONVERTERS) if turn % 2 == 0 else list(CONVERTERS)[::-1]
        for name in order:
            cost = measure(name, source, scratch)
            found[name].append(cost)
            print(
                f"round {turn + 1} {name:8s} {cost.seconds:6.1f} s, {cost.processor:5.1f} processor seconds, "
                f"{cost.resident / 1e9:.2f} GB resident",
                flush=True,
            )
    for title, field in (("time", "seconds"), ("processor time", "processor"), ("peak memory", "resident")):
        pairs = zip(found["ours"], found["mlx-vlm"], strict=True)
        ratios = sorted(getattr(mine, field) / getattr(other, field) for mine, other in pairs)
        print(
            f"{title}: {statistics.median(ratios):.2f} of mlx-vlm's "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f} over {rounds} rounds)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=[*SHAPES, "tiny"], default="4b")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--checkpoint", type=Path, help="checkpoint of full_size.py; written there if absent")
    parser.add_argument(
        "--scratch", type=Path, help="where outputs go for a moment; default: the temporary directory"
    )
    parser.add_argument("--tokenizer", type=Path, default=TOKENIZER, help="directory of Gemma 3's tokenizer")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="bench_convert.") as scratch:
        source = given.checkpoint or Path(scratch) / "source"
        if not source.exists():
            try:
                write_checkpoint(source, given.shape, tokenizer=given.tokenizer)
            except FileNotFoundError as error:
                print(f"not run: {error}")
                return
        compare(source, Path(scratch), given.rounds)


if __name__ == "__main__":
    main()
