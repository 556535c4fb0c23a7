"""Where a run stands, and what it came to."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlx_medlora.training.events import Epoch, Step


@dataclass
class Outcome:
    """What a run came to. `best_epoch` is by validation loss, or the last one without validation.

    `at_best`: the adapter as it is now is that epoch's.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int | None = None
    at_best: bool = False
    steps: int = 0
    stopped_early: bool = False


@dataclass
class Place:
    """Where a run stands: so many updates of `epoch` are done, with this loss over so many tokens.

    Epoch 0 stands for the base's validation before training.
    """

    epoch: int = 0
    updates: int = 0
    nll: float = 0.0
    tokens: int = 0

    def add(self, step: Step) -> None:
        """Count an update."""
        self.updates, self.tokens = self.updates + 1, self.tokens + step.tokens
        self.nll += step.loss * step.tokens
