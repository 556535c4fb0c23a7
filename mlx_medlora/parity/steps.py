"""Rung 7: fifty AdamW updates on both sides, by our trainer and by torch."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.inputs import Row
from mlx_medlora.parity.results import TRAINED, Array, Rung, distance, judged
from mlx_medlora.parity.sides import Sides
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.step import Stepper
from mlx_medlora.training.trainer import Trainer

STEPS = 50
WARMUP = 5
RECIPE = TrainSettings(lr=2e-4, weight_decay=0.01, clip=1.0, schedule="linear", accumulate=2, dropout=0.0)

Run = tuple[list[float], dict[str, Array]]  # each update's loss, and the adapter afterwards


def windows(rows: list[Row]) -> list[list[list[Row]]]:
    """For each update two batches of unlike sizes, so that answers weigh by tokens and not by batch."""
    made = []
    for step in range(STEPS):
        turned = rows[step % len(rows) :] + rows[: step % len(rows)]
        cut = max(1, len(turned) // 3)
        made.append([part for part in (turned[:cut], turned[cut:]) if part])
    return made


def training(sides: Sides) -> Rung:
    """Rung 7: every update's loss, and every adapter matrix after the last."""
    wanted = _theirs(sides, "sdpa")
    noise, _ = _apart(_theirs(sides, "eager"), wanted)
    error, where = _apart(_ours(sides), wanted)
    detail = f"{STEPS} updates, loss {wanted[0][0]:.4f} to {wanted[0][-1]:.4f}; worst {where}"
    return judged(7, "training", error, max(TRAINED, 3 * noise), noise, detail)


def _apart(found: Run, wanted: Run) -> tuple[float, str]:
    gaps = {
        f"loss of update {i + 1}": abs(a / b - 1)
        for i, (a, b) in enumerate(zip(found[0], wanted[0], strict=True))
    }
    if found[1].keys() != wanted[1].keys():
        return float("inf"), "the adapter's tensors"
    gaps |= {name: distance(found[1][name], values) for name, values in wanted[1].items()}
    worst = max(gaps, key=lambda name: gaps[name] if np.isfinite(gaps[name]) else float("inf"))
    return gaps[worst] if np.isfinite(gaps[worst]) else float("inf"), worst


def _ours(sides: Sides) -> Run:
    model = sides.adapted()
    made = {id(row): example for row, example in zip(sides.rows, ours.examples(sides.rows), strict=True)}
    trainer = Trainer(model, list(made.values()), [], sides.images(), RECIPE, save=lambda kind: None)
    trainer.stepper = Stepper(model, RECIPE, STEPS, warmup=WARMUP)
    model.train()
    losses = [
        trainer.update([[made[id(row)] for row in part] for part in window], 1).loss
        for window in windows(sides.rows)
    ]
    trained: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    return losses, {name: np.array(array) for name, array in trained.items()}


def _theirs(sides: Sides, kind: str) -> Run:
    import torch
    from transformers import get_linear_schedule_with_warmup

    wrapped = sides.peft()
    parameters = list(reference.matrices(wrapped, sides.adapter).values())
    optimizer = torch.optim.AdamW(
        parameters, lr=RECIPE.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=RECIPE.weight_decay
    )
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    losses = []
    with reference.attention(wrapped.get_base_model(), kind):
        for window in windows(sides.rows):
            losses.append(_update(sides, wrapped, window, parameters))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    named = reference.matrices(wrapped, sides.adapter)
    return losses, {name: reference.own(name, parameter) for name, parameter in named.items()}


def _update(sides: Sides, wrapped: Any, window: list[list[Row]], parameters: list[Any]) -> float:
    """Gradients of one window, clipped; its mean loss."""
    import torch

    batches = [sides.batch(part) for part in window]
    count = sum(int(batch["supervised"][:, 1:].sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        part = reference.loss(wrapped, batch) / count
        part.backward()
        total += float(part.detach())
    torch.nn.utils.clip_grad_norm_(parameters, RECIPE.clip)
    return total
