"""Fuzz every parser for as long as you like: `python scripts/fuzz_inputs.py --seconds 600`.

The same inputs as in tests/hostile, drawn anew each time. One that crashes, hangs, floods the memory or is
refused without its file's name is kept in --keep with the command that reads it; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "hostile"))

from fuzzers import FUZZERS, Fuzzer
from hypothesis import HealthCheck, Phase, given, seed, settings
from station import Station

ROUND = 50  # inputs of one kind in a row


def main() -> int:
    """Run the command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long to go on")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the time, if left out")
    parser.add_argument("--only", default="", help="kinds whose name holds this, as 'YAML'")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    given_ = parser.parse_args()
    chosen = [fuzzer for fuzzer in FUZZERS if given_.only.lower() in fuzzer.name.lower()]
    if not chosen:
        parser.error(f"--only {given_.only!r} names none of: {', '.join(map(str, FUZZERS))}")
    first = int(time.time()) if given_.seed is None else given_.seed
    print(f"seed {first}", flush=True)
    deadline, station, counts = time.monotonic() + given_.seconds, Station(), Counter[str]()
    for number, fuzzer in zip(itertools.count(first), itertools.cycle(chosen), strict=False):
        if time.monotonic() > deadline:
            break
        attack(fuzzer, number, station, given_.keep, counts, deadline)
    station.close()
    print(f"{counts['inputs']:,} inputs, {counts['refused']:,} refused, {counts['findings']} findings")
    return 1 if counts["findings"] else 0


def attack(
    fuzzer: Fuzzer, number: int, station: Station, keep: Path, counts: Counter[str], deadline: float
) -> None:
    """One round of inputs of one kind."""

    @seed(number)
    @settings(
        max_examples=ROUND,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzer.values)
    def try_one(value: Any) -> None:
        if time.monotonic() > deadline:
            return
        place = Path(tempfile.mkdtemp(prefix="fuzz-"))
        try:
            arguments = fuzzer.build(place, value)
            outcome = station.run(arguments)
            counts.update(inputs=1, refused=int(outcome.status == 2))
            if faults := fuzzer.faults(outcome):
                counts.update(findings=1)
                target = keep / f"{number}-{counts['inputs']}"
                shutil.copytree(place, target / "files", symlinks=True)
                command = shlex.join(["mlx-medlora", *arguments]).replace(str(place), str(target / "files"))
                (target / "about.txt").write_text(
                    f"{fuzzer}: {', '.join(faults)}\n{command}\n{outcome.said}\n"
                )
                print(f"{fuzzer}: {', '.join(faults)}: {target}", flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    try_one()


if __name__ == "__main__":
    sys.exit(main())
