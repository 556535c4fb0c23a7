"""What became of a run's image features, in numbers and in one line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureUse:
    """Distinct images by where their features came from.

    `stored` were in the store; `computed` are new; `again` were there and could not be used, for the
    reasons in `why`; `left` are not kept: the tower runs whenever they are needed. `place` is the store, or
    None for memory.
    """

    stored: int = 0
    computed: int = 0
    again: int = 0
    left: int = 0
    why: tuple[str, ...] = ()
    place: str | None = None

    def sentence(self) -> str:
        """One line for people."""
        parts = [f"{self.stored} from the store", f"{self.computed} computed"]
        if self.place is None:
            parts = [f"{self.computed} computed, in memory"]
        if self.again:
            parts.append(f"{self.again} computed again ({', '.join(self.why)})")
        if self.left:
            parts.append(f"{self.left} not kept (the limit is reached): computed whenever they are needed")
        return "image features: " + ", ".join(parts)
