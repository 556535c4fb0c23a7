"""Rungs 1 to 6: pixels, tokens, features, logits, loss, gradients."""

from __future__ import annotations

import numpy as np

from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.inputs import our_encoding
from mlx_medlora.parity.results import FLOOR, Array, Rung, distance, judged, skipped, tolerance
from mlx_medlora.parity.sides import Sides


def pixels(sides: Sides) -> Rung:
    """Rung 1: pixel values are equal."""
    name = "pixel values"
    if sides.pixels is None:
        return skipped(1, name, "no images")
    images = [image for row in sides.rows for image in row.images]
    found = sides.encoder.pixels(images)
    return judged(1, name, distance(found, sides.pixels), 0.0, 0.0, f"{len(images)} images")


def tokens(sides: Sides) -> Rung:
    """Rung 2: token ids and the supervised mask are equal, the chat template included."""
    wrong = 0
    for row, (ids, supervised) in zip(sides.rows, our_encoding(sides.rows, sides.encoder), strict=True):
        same = np.array_equal(ids, row.ids) and np.array_equal(supervised, row.supervised)
        wrong += not same
    detail = f"{sum(len(row.ids) for row in sides.rows)} tokens in {len(sides.rows)} rows"
    return judged(2, "token ids and supervised mask", float(wrong), 0.0, 0.0, detail, unit="rows that differ")


def features(sides: Sides) -> Rung:
    """Rung 3: the tower and the projector give equal features."""
    name = "image features"
    if sides.pixels is None or sides.features is None:
        return skipped(3, name, "no images")
    with reference.attention(sides.reference, "eager"):
        noise = distance(reference.features(sides.reference, sides.pixels), sides.features)
    error = distance(ours.features(sides.base, sides.pixels), sides.features)
    return judged(3, name, error, tolerance(noise), noise, f"{sides.features.shape[1]} soft tokens an image")


def logits(sides: Sides) -> Rung:
    """Rung 4: logits at every token, batches padded on either side, and each row on its own."""
    error = noise = 0.0
    groups = [(None, False), (None, True), *(([row], False) for row in sides.rows)]
    for rows, left in groups:
        batch = sides.batch(rows, left=left)
        real = batch["attention_mask"].astype(bool)
        wanted = reference.logits(sides.reference, batch)[real]
        with reference.attention(sides.reference, "eager"):
            noise = max(noise, distance(reference.logits(sides.reference, batch)[real], wanted))
        error = max(error, distance(ours.logits(sides.base, batch, sides.given(rows))[real], wanted))
    detail = f"{len(groups)} batches, padded left and right"
    return judged(4, "logits", error, tolerance(noise), noise, detail)


def loss(sides: Sides) -> Rung:
    """Rung 5: the loss on the answers of all rows."""
    import torch

    batch = sides.batch()
    count = int(batch["supervised"][:, 1:].sum())
    with torch.no_grad():
        wanted = float(reference.loss(sides.reference, batch)) / count
        with reference.attention(sides.reference, "eager"):
            noise = abs(float(reference.loss(sides.reference, batch)) / count / wanted - 1)
    images = ours.source(sides.pixels, sides.features, trained_tower=False)
    found = ours.loss(sides.base, ours.training_batch(sides.rows, sides.config, images))
    error = abs(found / wanted - 1)
    detail = f"{wanted:.6f} over {count} supervised tokens"
    return judged(5, "loss", error, tolerance(noise), noise, detail, unit="of the loss")


def gradients(sides: Sides) -> Rung:
    """Rung 6: the gradient of every adapter matrix, each against its own largest value."""
    wrapped, batch = sides.peft(), sides.batch()
    wanted = reference.gradients(wrapped, sides.adapter, batch)
    with reference.attention(wrapped.get_base_model(), "eager"):
        noise, _ = _worst(reference.gradients(wrapped, sides.adapter, batch), wanted)
    found = ours.gradients(sides.adapted(), ours.training_batch(sides.rows, sides.config, sides.images()))
    error, where = _worst(found, wanted)
    detail = f"{len(wanted)} matrices; worst {where}"
    return judged(6, "gradients", error, tolerance(noise), noise, detail, unit="of the matrix's largest")


def _worst(found: dict[str, Array], wanted: dict[str, Array]) -> tuple[float, str]:
    """The largest distance over all matrices, and where it is; infinity where the names differ."""
    if found.keys() != wanted.keys():
        return float("inf"), min(found.keys() ^ wanted.keys())
    floor = FLOOR * max(float(np.abs(values).max()) for values in wanted.values())
    gaps = {
        name: float(np.abs(found[name] - values).max()) / max(float(np.abs(values).max()), floor)
        for name, values in wanted.items()
    }
    worst = max(gaps, key=lambda name: gaps[name])
    return (gaps[worst], worst) if all(np.isfinite(gap) for gap in gaps.values()) else (float("inf"), worst)
