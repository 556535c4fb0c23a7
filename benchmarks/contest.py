"""A contest of training steps: who takes part, what each computes, and the table of what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import flops
import ours
from reference import ADAPTER, Batch
from turns import Player, Turn, ratios, spread, take_turns

from mlx_medlora.gemma.config import ModelConfig

MATMUL = "matmul"
OURS, FIRST = "ours", "ours-first-epoch"
LINE = "{:18} {:>24} {:>22} {:>8} {:>7} {:>13} {:>24}"


@dataclass(frozen=True)
class Entry:
    """A contestant: what to run, with which options, and what it computes besides the least."""

    spec: str
    options: Mapping[str, object]
    images: bool = True
    whole_head: bool = True
    whole_last: bool = True

    def work(self, batch: Batch) -> flops.Work:
        """What one step of it computes."""
        return flops.Work(
            batch.rows,
            batch.length,
            batch.rows * batch.supervised,
            int(ADAPTER["rank"]),
            images=batch.rows if self.images else 0,
            whole_head=self.whole_head,
            whole_last=self.whole_last,
        )


_OWN = {"whole_head": False, "whole_last": not ours.LAST_LAYER_PRUNED}
OUR_ENTRIES = {
    OURS: Entry("ours:Ours", {}, images=False, **_OWN),
    FIRST: Entry("ours:Ours", {"first_epoch": True}, **_OWN),
}


@dataclass(frozen=True)
class Terms:
    """How a contest runs: rounds, steps a turn, steps that do not count, threads, LoRA's dropout for all."""

    rounds: int
    steps: int
    warmup: int
    threads: int
    dropout: float


def contest(
    directory: Path, entries: Mapping[str, Entry], terms: Terms, matmul: Mapping[str, object]
) -> dict[str, list[Turn]]:
    """Let `entries`, and then products of matrices with options `matmul`, take turns on a checkpoint."""
    given = {"directory": str(directory), "dropout": terms.dropout}
    players = [Player(name, e.spec, {**given, **e.options}, terms.threads) for name, e in entries.items()]
    players.append(Player(MATMUL, "ours:Matmul", matmul, terms.threads))
    try:
        return take_turns(players, terms.rounds, warmup=terms.warmup, steps=terms.steps)
    finally:
        for player in players:
            player.close()


def table(
    found: Mapping[str, list[Turn]], entries: Mapping[str, Entry], config: ModelConfig, batch: Batch
) -> None:
    """Print one line for each contestant: times, ratios by round, work, share of the matmul rate, memory.

    The share is of the best rate, at the median step and (in brackets) at the best one.
    """
    rate = max(turn.value for turn in found[MATMUL])
    print(f"\nproducts of matrices: at best {rate:.0f} GFLOP/s")
    print(LINE.format("", "s a step", "times ours", "CPU s", "GFLOP", "share (best)", "MB over weights"))
    for name, entry in entries.items():
        turns = found[name]
        count = flops.step(config, entry.work(batch)) / 1e9
        steps = [turn.step for turn in turns]
        share, best = (count / seconds / rate for seconds in (median(steps), min(steps)))
        active, resident = (max(values) / 1e6 for values in zip(*map(_memory, turns), strict=True))
        print(
            LINE.format(
                name,
                spread(steps, 3),
                spread(ratios(turns, found[OURS])),
                f"{median(turn.cpu for turn in turns):.2f}",
                f"{count:.3g}",
                f"{share:.0%} ({best:.0%})",
                f"{resident:.0f}" + (f" (arrays {active:.0f})" if active else ""),
            )
        )


def _memory(turn: Turn) -> tuple[int, int]:
    return turn.active or 0, turn.resident
