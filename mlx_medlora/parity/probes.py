"""Two properties beside the ladder: nothing looks ahead, and the image counts."""

from __future__ import annotations

import numpy as np

from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.inputs import Batch
from mlx_medlora.parity.results import Array, Probe
from mlx_medlora.parity.sides import Sides

_MOST = 96  # tokens that are perturbed, spread over the row
_STILL = 1e-6


def causality(sides: Sides) -> Probe:
    """Change each token: no logit before it moves. An image's tokens count from their block's first."""
    row = max(sides.rows, key=lambda one: (len(one.images), -len(one.ids)))
    batch, given = sides.batch([row]), sides.given([row])
    plain = ours.logits(sides.base, batch, given)[0]
    largest = float(np.abs(plain).max())
    moved, where = 0.0, 0
    soft = row.ids == sides.config.image_token_id
    text = np.flatnonzero(~soft)
    chosen = text[np.unique(np.linspace(0, len(text) - 1, min(_MOST, len(text))).astype(int))]
    for place in chosen:
        other = dict(batch)
        other["input_ids"] = batch["input_ids"].copy()
        other["input_ids"][0, place] = 5 if row.ids[place] != 5 else 6
        gap = _before(ours.logits(sides.base, other, given)[0], plain, int(place)) / largest
        moved, where = max((moved, where), (gap, int(place)))
    if given is not None:
        first = int(np.flatnonzero(soft)[0])
        gap = _before(ours.logits(sides.base, batch, given + 1.0)[0], plain, first) / largest
        moved, where = max((moved, where), (gap, first))
    status = "passed" if moved <= _STILL else "failed"
    detail = f"{len(chosen)} tokens changed; the most that an earlier logit moved, at token {where}"
    return Probe(name="causality", status=status, value=moved, detail=detail)


def _before(found: Array, plain: Array, place: int) -> float:
    return float(np.abs(found[:place] - plain[:place]).max()) if place else 0.0


def image_dependence(sides: Sides) -> Probe:
    """Swap the image for another: the probability of ERROR against CORRECT must move, as it does there."""
    rows = [row for row in sides.rows if len(row.images) == 1]
    if len(rows) < 2:
        return Probe(
            name="image dependence", status="not applicable", detail="fewer than two rows with an image"
        )
    words = _words(sides)
    mine, theirs = [], []
    for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
        batch = sides.batch([row], prompts=True)
        swapped = batch | {"pixel_values": sides.batch([other])["pixel_values"]}
        own, strange = sides.given([row]), sides.given([other])
        mine.append(_share(_ours(sides, batch, own), words) - _share(_ours(sides, batch, strange), words))
        theirs.append(
            _share(reference.logits(sides.reference, batch)[0, -1], words)
            - _share(reference.logits(sides.reference, swapped)[0, -1], words)
        )
    shift, wanted = float(np.abs(mine).mean()), float(np.abs(theirs).mean())
    status = "passed" if shift > 0 and abs(shift - wanted) <= 1e-4 else "failed"
    detail = f"mean shift of P(ERROR) over {len(rows)} swaps; transformers' is {wanted:.4g}"
    return Probe(name="image dependence", status=status, value=shift, detail=detail)


def _ours(sides: Sides, batch: Batch, given: Array | None) -> Array:
    found: Array = ours.logits(sides.base, batch, given)[0, -1]
    return found


def _words(sides: Sides) -> tuple[int, int]:
    """The first token of ERROR and of CORRECT."""
    tokenizer = sides.encoder.tokenizer
    first = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("ERROR", "CORRECT")]
    return first[0], first[1]


def _share(logits: Array, words: tuple[int, int]) -> float:
    gap = float(logits[words[1]]) - float(logits[words[0]])
    return float(1 / (1 + np.exp(np.clip(gap, -700, 700))))
