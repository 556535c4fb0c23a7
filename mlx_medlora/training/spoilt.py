"""After a loss that is no number: whether the rows or the updates are to blame."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.switch import adapter_off, can_switch
from mlx_medlora.training.batches import Batch
from mlx_medlora.training.loss import answer_loss


def gives_numbers(model: Base, batches: Sequence[Batch], first: int) -> bool:
    """Whether `model` as it stands, without dropout, gives each of `batches` a loss that is a number.

    `first` is the layer that their hidden states enter, as in `answer_loss`.
    """
    model.eval()
    return all(math.isfinite(float(answer_loss(model, batch.arrays, first=first))) for batch in batches)


def is_spoilt(model: Base, batches: Sequence[Batch], first: int) -> bool:
    """Whether updates have spoilt the adapter: without it `batches` have a loss, with it they have none.

    False where it cannot be told, since the adapter replaced parts of the base.
    """
    if not batches or gives_numbers(model, batches, first) or not can_switch(model):
        return False
    with adapter_off(model):
        return gives_numbers(model, batches, first)
