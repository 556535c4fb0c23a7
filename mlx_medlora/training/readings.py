"""What tokenizer and image processor make of a run's rows: no weight's fingerprint tells of them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.training.examples import Example
from mlx_medlora.training.setup import Setup

_SIDES = ((37, 53), (1100, 900))  # made larger, made smaller


def readings(setup: Setup) -> dict[str, Any]:
    """SHA-256 of all rows' tokens (and which are supervised) by split, and of pixels; None for a text model.

    By what comes out and not by files: those that say the same in other words are no change.
    """
    rows = {"train": setup.train, "val": setup.val}
    tokens = {split: _tokens(examples) for split, examples in rows.items() if examples}
    return {"tokenizer": tokens, "processor": _pixels(setup.encoder)}


def _tokens(examples: list[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        digest.update(len(example).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(example.ids, np.int32).tobytes())
        digest.update(np.ascontiguousarray(example.supervised, np.bool_).tobytes())
    return digest.hexdigest()


def _pixels(encoder: Encoder) -> str | None:
    if encoder.config.text_only:
        return None
    rng = np.random.default_rng(0)
    probe = [Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in _SIDES]
    return hashlib.sha256(np.ascontiguousarray(encoder.pixels(probe)).tobytes()).hexdigest()
