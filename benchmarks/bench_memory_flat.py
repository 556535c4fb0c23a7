"""Claim: memory stays flat over a long run: no trend over 1 MB in 100 steps.

    python benchmarks/bench_memory_flat.py

A small random model takes 2,000 steps on rows whose lengths and image counts vary; resident memory is read
every 100 steps. The trend is a least-squares line through the second half of the readings: allocators and
compiled shapes settle in the first.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import numpy as np
import ours
from reference import QUICK, Batch, config, rows
from turns import resident

from mlx_medlora.gemma.model import build

LIMIT = 1.0  # MB in 100 steps
BATCH, CASES, LONGEST = 4, 64, 120


def varied(rng: np.random.Generator) -> ours.Rig:
    """A rig of `CASES` rows between 20 and 120 tokens, every third without an image."""
    made = config(QUICK)
    rig = ours.Rig(build(made), rows(made, Batch(CASES, LONGEST, 5)), dropout=0.1)
    for index, example in enumerate(rig.examples):
        image = QUICK.soft_tokens + 3  # <bos>, the image and its two marks
        length = int(rng.integers(20, LONGEST + 1))
        cut = np.r_[0:image, LONGEST - length + image : LONGEST]
        if index % 3 == 0:
            cut = cut[image:]
        rig.examples[index] = replace(
            example,
            ids=example.ids[cut],
            supervised=example.supervised[cut],
            images=() if index % 3 == 0 else example.images,
        )
    return rig


def readings(steps: int, every: int) -> list[float]:
    """Resident MB after each `every` steps."""
    rng = np.random.default_rng(0)
    rig = varied(rng)
    rig.look()
    found = []
    for step in range(1, steps + 1):
        rig.step(rng.choice(CASES, BATCH, replace=False).tolist())
        if step % every == 0:
            found.append(resident() / 1e6)
            print(f"step {step}: {found[-1]:.1f} MB resident", flush=True)
    return found


def trend(values: list[float], every: int) -> float:
    """MB in 100 steps, by least squares over the second half of `values`."""
    half = np.asarray(values[len(values) // 2 :])
    slope = np.polyfit(np.arange(len(half)) * every, half, 1)[0]
    return float(slope * 100)


def main() -> int:
    """Run, print the trend and say whether it is flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="40 steps: only to see that it runs")
    chosen = parser.parse_args()
    steps, every = (40, 5) if chosen.quick else (chosen.steps, 100)
    slope = trend(readings(steps, every), every)
    passed = slope <= LIMIT
    verdict = "too short a run to judge" if chosen.quick else "PASS" if passed else "FAIL"
    print(f"trend over the second half: {slope:+.3f} MB in 100 steps; limit {LIMIT}: {verdict}")
    return 0 if passed or chosen.quick else 1


if __name__ == "__main__":
    sys.exit(main())
