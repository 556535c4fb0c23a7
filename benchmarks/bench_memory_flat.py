"""Claim: memory stays flat over a long run: no trend over 1 MB in 100 steps.

    python benchmarks/bench_memory_flat.py

A small random model trains for 20 epochs of 100 steps on rows whose lengths vary, every third without an
image; resident memory is read every 100 steps. The trend is a least-squares line through the second half of
the readings: allocators settle in the first.
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
from mlx_medlora.training.events import Event, Step
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache

LIMIT = 1.0  # MB in 100 steps
BATCH, CASES, LONGEST, SHORTEST, IMAGES = 4, 400, 120, 30, 32


class Readings:
    """Hears the trainer's events; reads resident MB after each `every` steps."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.found: list[float] = []

    def __call__(self, event: Event) -> None:
        """Take a reading where it is time."""
        if isinstance(event, Step) and event.step % self.every == 0:
            self.found.append(resident() / 1e6)
            print(f"step {event.step}: {self.found[-1]:.1f} MB resident", flush=True)

    def trend(self) -> float:
        """MB in 100 steps, by least squares over the second half."""
        half = np.asarray(self.found[len(self.found) // 2 :])
        return float(np.polyfit(np.arange(len(half)) * self.every, half, 1)[0] * 100)


def varied(count: int) -> list[Example]:
    """Rows of random lengths that share `IMAGES` images."""
    rng = np.random.default_rng(0)
    image = QUICK.soft_tokens + 3  # <bos>, the image and its two marks
    made = []
    for index, example in enumerate(ours.examples(rows(config(QUICK), Batch(count, LONGEST, 5)))):
        length = int(rng.integers(SHORTEST, LONGEST + 1))
        shown = index % 3 > 0
        cut = np.r_[0 : image if shown else 0, LONGEST - length + image : LONGEST]
        files = (ours.image_file(index % IMAGES),) if shown else ()
        made.append(replace(example, ids=example.ids[cut], supervised=example.supervised[cut], images=files))
    return made


def main() -> int:
    """Train, print the trend and say whether it is flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="2 epochs of 10 steps: only to see that it runs")
    chosen = parser.parse_args()
    epochs, cases, every = (2, 40, 5) if chosen.quick else (chosen.epochs, CASES, 100)
    made, cache, readings = config(QUICK), FeatureCache(), Readings(every)
    model = build(made)
    ours.look(model, rows(made, Batch(IMAGES, LONGEST, 5)).pixels, cache)
    settings = ours.settings(BATCH, dropout=0.1, epochs=epochs)
    trainer = ours.trainer(model, varied(cases), cache, settings)
    trainer.listeners = [readings]
    trainer.run()
    slope = readings.trend()
    verdict = "PASS" if slope <= LIMIT else "FAIL"
    print(f"trend over the second half: {slope:+.3f} MB in 100 steps; limit {LIMIT}: ", end="")
    print("too short a run to judge" if chosen.quick else verdict)
    return int(verdict == "FAIL" and not chosen.quick)


if __name__ == "__main__":
    sys.exit(main())
