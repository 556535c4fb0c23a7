"""Claim: replayed rows keep the base where it was: KL to it on what it knew falls many times.

    python benchmarks/bench_replay.py                   # 200 cases, three seeds: minutes
    python benchmarks/bench_replay.py --quick           # seconds: only to see that it runs

The embedded model is trained on phantoms, with and without text-only exchanges of the kinds it was taught
(scripts/tiny_medgemma/lessons.py), a fifth of an epoch's rows. KL(base || tuned) is measured on other
exchanges of these kinds, which it answers without a fault before. Replay adds updates too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

import mlx_medlora.gemma  # noqa: F401  (loads the fast BLAS, as every command does)
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.cases.questions import Question
from mlx_medlora.evaluation.forgetting import measure
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

LESSONS = Path(__file__).resolve().parents[1] / "scripts" / "tiny_medgemma"
SHARE = 0.2


def exchanges(seed: int, count: int, without: frozenset[str] = frozenset()) -> list[dict[str, str]]:
    """Different text-only exchanges of the kinds that the embedded base was taught: what it can forget."""
    sys.path.insert(0, str(LESSONS))
    try:
        import lessons as taught
    finally:
        sys.path.pop(0)
    rng = np.random.default_rng(seed)
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        one = (taught.treatment, taught.claim, taught.agree)[rng.integers(3)](rng)
        row = {"instruction": one.system, "input": one.question, "output": one.answer}
        asked = Question(**row).asked
        if asked not in without:
            found[asked] = row
    return list(found.values())


def replayed_and_held(path: Path, rows: int) -> list[Question]:
    """Write `rows` exchanges to replay; forty others to measure on."""
    replayed = exchanges(1, rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in replayed))
    known = frozenset(Question(**row).asked for row in replayed)
    return [Question(**row) for row in exchanges(2, 40, known)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 cases, one seed")
    given = parser.parse_args()
    cases, seeds = (16, 1) if given.quick else (200, 3)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        prepare_phantoms(cases + 16, root / "data", val=8, test=8, size=64)
        held = replayed_and_held(root / "general.jsonl", 60)
        for seed in range(seeds):
            kl = []
            for name, file in (("plain", None), ("replay", str(root / "general.jsonl"))):
                settings = TrainSettings(epochs=3, lr=3e-3, seed=seed, replay=file, replay_share=SHARE)
                made = run_training("tiny-medgemma", root / "data", root / f"{name}{seed}", settings).record
                model, processor = load("tiny-medgemma", root / f"{name}{seed}")
                found = measure(model, Encoder(processor, model.config), questions=held)
                kl.append(found.kl.value or 0.0)
                low, high = found.kl.interval or (0.0, 0.0)
                print(
                    f"seed {seed} {name}: KL {kl[-1]:.4f} ({low:.4f} to {high:.4f}), validation loss "
                    f"{made.val_loss:.3f}, {made.updates} updates",
                    flush=True,
                )
            print(f"seed {seed} ratio: {kl[0] / kl[1]:.0f}")


if __name__ == "__main__":
    main()
