"""From a directory to a model with its weights."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.gemma.weights import load_weights


def load_base(directory: Path, dtype: mx.Dtype | None = None) -> Base:
    """The model of a checkpoint directory, ready to answer, without an adapter.

    `dtype` (float32 or bfloat16) casts every tensor that is not quantised. Raises InputError where the
    configuration or the weights are absent, damaged or not Gemma 3's.
    """
    model = build(read_config(directory))
    load_weights(model, directory, dtype)
    model.eval()
    return model
