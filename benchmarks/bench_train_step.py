"""Claim: a training step is faster and smaller than mlx-vlm's and than transformers + PEFT's.

    python benchmarks/bench_train_step.py                # about 4 minutes on two quiet cores
    python benchmarks/bench_train_step.py --quick        # seconds, on toy sizes: only to see that it runs

One random checkpoint, one batch (reference.py), the same LoRA, AdamW and fp32 for all; each contestant in its
own process, taking turns. mlx-vlm computes another function on these rows (its mask is not causal,
docs/fidelity.md), at a like cost. `peft` gives labels to the model, as transformers' trainer does;
`peft-kept` also spares the head on all but the end of the rows, which transformers can be told to.

Share: the operations that a contestant computes (flops.py) over its median step, and over its best one, as a
part of the best rate of 2048 x 2048 products measured between the rounds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import flops
import ours
from reference import ADAPTER, QUICK, REFERENCE, Shape, config, write
from turns import Player, Turn, ratios, spread, take_turns

LINE = "{:18} {:>24} {:>22} {:>6} {:>12} {:>22}"
OURS, FIRST, MATMUL = "ours", "ours-first-epoch", "matmul"
GOALS = {  # issue 4: least ratio of step times to ours, to the cached step or to the first epoch's
    ("mlx-vlm", OURS): 6.0,
    ("peft", OURS): 2.5,
    ("mlx-vlm", FIRST): 1.9,
}


@dataclass(frozen=True)
class Entry:
    """A contestant: what to run, with which options, and what it computes besides the least."""

    spec: str
    options: dict[str, object]
    images: bool = True
    whole_head: bool = True
    whole_last: bool = True


ENTRIES = {
    "mlx-vlm": Entry("peers:MlxVlm", {}),
    "peft": Entry("peers:Peft", {}),
    "peft-kept": Entry("peers:Peft", {"kept": True}, whole_head=False),
    OURS: Entry("ours:Ours", {}, images=False, whole_head=False, whole_last=not ours.LAST_LAYER_PRUNED),
    FIRST: Entry("ours:Ours", {"first_epoch": True}, whole_head=False, whole_last=not ours.LAST_LAYER_PRUNED),
}


def work(entry: Entry, shape: Shape) -> flops.Work:
    """What one step of a contestant computes."""
    return flops.Work(
        shape.rows,
        shape.length,
        shape.rows * shape.supervised,
        int(ADAPTER["rank"]),
        images=shape.rows if entry.images else 0,
        whole_head=entry.whole_head,
        whole_last=entry.whole_last,
    )


def report(found: dict[str, list[Turn]], shape: Shape) -> None:
    """Print the table: one line for each contestant."""
    made, rate = config(shape), max(turn.value for turn in found[MATMUL])
    print(f"\nfp32 products of {2048 if shape is REFERENCE else 256}: at best {rate:.0f} GFLOP/s")
    print(LINE.format("", "s a step", "times ours", "GFLOP", "share (best)", "MB over weights"))
    for name, entry in ENTRIES.items():
        if name not in found:
            continue
        count = flops.step(made, work(entry, shape)) / 1e9
        steps = [turn.step for turn in found[name]]
        share, best = (count / seconds / rate for seconds in (median(steps), min(steps)))
        active = max(turn.active or 0 for turn in found[name]) / 1e6
        resident = max(turn.resident for turn in found[name]) / 1e6
        memory = f"{resident:.0f}" + (f" (MLX {active:.0f})" if active else "")
        times = spread(ratios(found[name], found[OURS]))
        shown = f"{share:.0%} ({best:.0%})"
        print(LINE.format(name, spread(steps, 3), times, f"{count:.3g}", shown, memory))


def judge(found: dict[str, list[Turn]]) -> None:
    """Print each goal and whether it was met."""
    print()
    for (peer, own), goal in GOALS.items():
        if peer in found:
            _say(f"{peer} over {own}, times", ratios(found[peer], found[own]), goal, least=True)
    if "mlx-vlm" in found:
        memory = [max(turn.active or 0 for turn in found[name]) for name in (OURS, "mlx-vlm")]
        _say("memory over mlx-vlm's", [memory[0] / memory[1]], 0.3, least=False)


def _say(what: str, values: list[float], goal: float, *, least: bool) -> None:
    middle = sorted(values)[len(values) // 2]
    met = middle >= goal if least else middle <= goal
    print(f"{what}: {spread(values)}; goal {goal}: {'met' if met else 'NOT MET'}")


def main() -> None:
    """Run the contest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="steps in each turn")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch and OpenBLAS")
    parser.add_argument("--dropout", type=float, default=ADAPTER["dropout"], help="LoRA's, for everyone")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES), help="contestants")
    parser.add_argument("--quick", action="store_true", help="one round on toy sizes")
    chosen = parser.parse_args()
    shape, rounds = (QUICK, 1) if chosen.quick else (REFERENCE, chosen.rounds)
    names = [name for name in ENTRIES if name in {*chosen.only, OURS}]
    with tempfile.TemporaryDirectory() as scratch:
        write(Path(scratch), shape)
        given = {"directory": scratch, "dropout": chosen.dropout}
        players = [
            Player(name, ENTRIES[name].spec, given | ENTRIES[name].options, chosen.threads) for name in names
        ]
        size = {"size": 256} if chosen.quick else {}
        players.append(Player(MATMUL, "ours:Matmul", size, chosen.threads))
        found = take_turns(players, rounds, warmup=chosen.warmup, steps=chosen.steps)
        for player in players:
            player.close()
    report(found, shape)
    if not chosen.quick:  # toy sizes say nothing
        judge(found)


if __name__ == "__main__":
    main()
