"""Contestants in processes of their own: order, failures, memory, processor time."""

from __future__ import annotations

from pathlib import Path

import pytest
import turns

MODULE = """
import time
from turns import Turn

class Eater:
    def __init__(self, mb, kept=0): self.mb, self.kept = mb, kept
    def load(self): self.weights = bytearray(200_000_000); self.touch(self.weights)
    def prepare(self): self.more = bytearray(self.kept * 1_000_000); self.touch(self.more)
    def touch(self, block): block[::4096] = b"x" * len(block[::4096])
    def turn(self, steps):
        print("a stray print")
        for _ in range(steps):
            block = bytearray(self.mb * 1_000_000); self.touch(block); del block
        return Turn([0.5] * steps, float(steps))

class Sleeper(Eater):
    def turn(self, steps):
        time.sleep(0.5)
        return Turn([0.5], 0.0)

class Faulty(Eater):
    def turn(self, steps): raise ValueError("no more bananas")
"""


@pytest.fixture(autouse=True)
def contestants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zoo.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_memory_is_what_a_turn_adds_to_the_weights_at_its_peak() -> None:
    small, large = (turns.Player(str(mb), "zoo:Eater", {"mb": mb}, 1) for mb in (10, 80))
    kept = turns.Player("kept", "zoo:Eater", {"mb": 10, "kept": 50}, 1)
    found = turns.take_turns([small, large, kept], 2, warmup=1, steps=2)
    for player in (small, large, kept):
        player.close()
    peaks = {name: max(turn.resident for turn in own) / 1e6 for name, own in found.items()}
    assert 9 <= peaks["10"] < 30
    assert 79 <= peaks["80"] < 100
    assert 59 <= peaks["kept"] < 80  # what `prepare` leaves there counts too
    assert [turn.value for turn in found["80"]] == [2.0, 2.0]


def test_players_take_turns() -> None:
    order: list[str] = []

    class Noted(turns.Player):
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, steps: int) -> turns.Turn:
            order.append(f"{self.name}{steps}")
            return turns.Turn([float(len(order))], 0.0)

    found = turns.take_turns([Noted("a"), Noted("b")], 2, warmup=7, steps=1)
    assert order == ["a7", "b7", "a1", "b1", "a1", "b1"]
    assert turns.ratios(found["b"], found["a"]) == [6 / 5, 4 / 3]


def test_processor_time_leaves_waiting_out() -> None:
    player = turns.Player("sleeper", "zoo:Sleeper", {"mb": 1}, 1)
    assert player.turn(1).cpu < 0.25
    player.close()


def test_a_failure_says_its_last_words() -> None:
    player = turns.Player("faulty", "zoo:Faulty", {"mb": 1}, 1)
    with pytest.raises(RuntimeError, match="faulty failed") as failure:
        player.turn(1)
    assert "no more bananas" in str(failure.value)


def test_spread_is_median_least_and_most() -> None:
    assert turns.spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"
