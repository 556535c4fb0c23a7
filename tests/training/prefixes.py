"""Runs that keep the hidden states below the first trained layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.training.events import Event
from mlx_medlora.training.images import agree_on_prefix, look, open_images
from mlx_medlora.training.prefix import Prefix, padded
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup, set_up

KEPT = TrainSettings(rank=2, dropout=0.0, epochs=2, batch_size=2, layers="last:2", prefix_cache=True, lr=2e-4)
PLAIN = KEPT.model_copy(update={"prefix_cache": False})


def opened(
    model: Path, data: Path, kept: FeatureSettings, said: list[Event] | None = None
) -> tuple[Setup, Prefix]:
    """A run's states as far as the question, then its image features."""
    setup, heard = set_up(model, data, KEPT), [] if said is None else said
    found = open_images(setup, kept, [heard.append])
    prefix = agree_on_prefix(setup, KEPT, kept, found, [heard.append])
    assert prefix is not None
    look(setup, kept, found=found)
    return setup, prefix


def states(setup: Setup, prefix: Prefix) -> list[bytes]:
    """The bytes of every row's states."""
    rows = [*setup.train, *setup.val]
    return [np.array(prefix.rows([row], padded(len(row)))).tobytes() for row in rows]
