"""What prompts have in common, and which of them to read together. Plain numbers; nothing is computed.

A prompt is header (the instruction), images, text. The header is common to all prompts of a dataset, and
read once. Prompts of the same images share more: their stem, which ends after the last image. Nothing is ever
cut inside an image's block of soft tokens, whose members see each other.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
LEAST = 16  # common tokens from which it pays to read them apart


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers: ids (L,) int32; features (N * T, D) of its images, or None.

    `images` names each image: equal names promise equal features. None where that is not known.
    """

    ids: Ids
    features: mx.array | None = None
    images: tuple[Hashable, ...] | None = None


@dataclass(frozen=True)
class Batch:
    """Prompts to read together, by number; those of the same images share their first `stem` tokens."""

    rows: list[int]
    stem: int = 0


def common(prompts: Sequence[Prompt], image_token: int) -> int:
    """How many tokens all prompts begin with, before any image; each keeps one for itself."""
    return _common([prompt.ids for prompt in prompts], image_token)


def stems(prompts: Sequence[Prompt], length: int) -> tuple[list[int], list[int]]:
    """Tell apart the first `length` tokens of `prompts`, images included.

    Returns the number of the first prompt with each, and for each prompt which of them is its own.
    """
    numbers: dict[Hashable, int] = {}
    rows: list[int] = []
    of: list[int] = []
    for row, prompt in enumerate(prompts):
        key = _stem_key(row, prompt, length)
        if key not in numbers:
            numbers[key] = len(rows)
            rows.append(row)
        of.append(numbers[key])
    return rows, of


def plan(
    prompts: Sequence[Prompt], image_token: int, *, header: int = 0, tokens: int, rows: int | None = None
) -> list[Batch]:
    """Batches of at most `rows` prompts and `tokens` tokens, padding included; one prompt may be longer.

    The first `header` tokens of each prompt do not count: they are read before. Prompts of like length
    come together, or those of the same images, whichever leaves less to compute.
    """
    limits = _Limits(prompts, header, tokens, rows or len(prompts))
    everyone = _by_length(prompts, range(len(prompts)))
    apart = limits.cut([[row] for row in everyone], 0)
    together, alone = _shared(prompts, image_token)
    if not together:
        return apart
    shared = limits.cut([[row] for row in _by_length(prompts, alone)], 0)
    for stem, groups in together.items():
        shared += limits.cut(
            sorted(groups, key=lambda group: max(len(prompts[row].ids) for row in group)), stem
        )
    return min(apart, shared, key=lambda batches: sum(limits.cost(batch) for batch in batches))


@dataclass(frozen=True)
class _Limits:
    prompts: Sequence[Prompt]
    header: int
    tokens: int
    rows: int

    def cost(self, batch: Batch) -> int:
        """Tokens to compute for a batch, padding included."""
        own = max(len(self.prompts[row].ids) for row in batch.rows) - (batch.stem or self.header)
        if not batch.stem:
            return len(batch.rows) * own
        distinct, _ = stems([self.prompts[row] for row in batch.rows], batch.stem)
        return len(batch.rows) * own + len(distinct) * (batch.stem - self.header)

    def cut(self, units: Iterable[list[int]], stem: int) -> list[Batch]:
        """Fill batches with units in their order; a unit is divided only where it alone is too large."""
        found: list[Batch] = []
        held: list[int] = []
        for piece in (piece for unit in units for piece in self._pieces(unit, stem)):
            if held and not self._fits(Batch(held + piece, stem)):
                found.append(Batch(held, stem))
                held = []
            held = held + piece
        return [*found, Batch(held, stem)] if held else found

    def _pieces(self, unit: list[int], stem: int) -> list[list[int]]:
        if len(unit) == 1 or self._fits(Batch(unit, stem)):
            return [unit]
        half = len(unit) // 2
        return self._pieces(unit[:half], stem) + self._pieces(unit[half:], stem)

    def _fits(self, batch: Batch) -> bool:
        return len(batch.rows) <= self.rows and self.cost(batch) <= self.tokens


def _shared(prompts: Sequence[Prompt], image_token: int) -> tuple[dict[int, list[list[int]]], list[int]]:
    """Groups of prompts that share their images, by the length of their stem; and the prompts that do not."""
    groups: dict[Hashable, list[int]] = {}
    ends = [_after_images(prompt.ids, image_token) for prompt in prompts]
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        groups.setdefault(_stem_key(row, prompt, end), []).append(row)
    alone = [row for group in groups.values() if len(group) == 1 or not ends[group[0]] for row in group]
    by_end: dict[int, list[list[int]]] = {}
    for group in groups.values():
        if len(group) > 1 and ends[group[0]]:
            by_end.setdefault(ends[group[0]], []).append(group)
    together = {}
    for end, found in by_end.items():  # the text that follows the images often begins alike too
        more = _common([prompts[row].ids[end:] for group in found for row in group], image_token)
        together[end + more] = found
    return together, alone


def _stem_key(row: int, prompt: Prompt, length: int) -> Hashable:
    return row if prompt.images is None else (prompt.ids[:length].tobytes(), prompt.images)


def _after_images(ids: Ids, image_token: int) -> int:
    """Where the last image ends; 0 without images, or where nothing would be left."""
    soft = np.flatnonzero(ids == image_token)
    end = int(soft[-1]) + 1 if len(soft) else 0
    return end if end < len(ids) else 0


def _by_length(prompts: Sequence[Prompt], rows: Iterable[int]) -> list[int]:
    return sorted(rows, key=lambda row: len(prompts[row].ids))


def _common(rows: Sequence[Ids], image_token: int) -> int:
    length = min(map(len, rows)) - 1
    same = rows[0][:length] != image_token
    for row in rows[1:]:
        same &= row[:length] == rows[0][:length]
    return length if same.all() else int(same.argmin())
