"""Claim: gradient checkpointing takes at most 0.45 of a step's memory for at most 1.35 of its time.

    python benchmarks/bench_checkpointing.py
    python benchmarks/bench_checkpointing.py --quick     # seconds, on toy sizes: only to see that it runs

The reference step (reference.py) with features cached, with and without, taking turns; memory is what the
step's arrays take over the weights at their peak.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

from reference import QUICK, REFERENCE, write
from turns import Player, ratios, spread, take_turns

MEMORY, TIME = 0.45, 1.35


def main() -> None:
    """Take turns, and print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of OpenBLAS")
    parser.add_argument("--quick", action="store_true", help="one round on toy sizes")
    chosen = parser.parse_args()
    rounds = 1 if chosen.quick else chosen.rounds
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch), QUICK if chosen.quick else REFERENCE)
        players = [
            Player(name, "ours:Ours", {"directory": scratch, "checkpointing": on}, chosen.threads)
            for name, on in (("kept", False), ("checkpointed", True))
        ]
        try:
            found = take_turns(players, rounds, warmup=2, steps=2)
        finally:
            for player in players:
                player.close()
    kept, again = found["kept"], found["checkpointed"]
    time, cpu = ratios(again, kept), [a.cpu / b.cpu for a, b in zip(again, kept, strict=True)]
    mine, theirs = (max(turn.active or 0 for turn in turns) for turns in (again, kept))
    print(f"memory over the weights: {mine / 1e6:.0f} MB against {theirs / 1e6:.0f} MB, {mine / theirs:.3f}")
    print(f"time: {spread(time)}; processor time: {spread(cpu)}")
    if not chosen.quick:
        met = mine / theirs <= MEMORY and median(time) <= TIME
        print(f"goal {MEMORY} of the memory for {TIME} of the time: {'met' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
