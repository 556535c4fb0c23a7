"""Examples become batches: rows of like length together, in a seeded order.

Letters: B rows, L tokens of the longest row, S supervised tokens in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource, PixelSource

_POOL = 32  # batches that are sorted by length together
_GRAIN = 32  # lengths this near count as equal, so that sorting leaves the shuffle alone


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right.

    input_ids (B, L); attention_mask (B, L) 1 = token, None where nothing is padded; token_type_ids (B, L)
    1 = soft token, None where no row has an image; features (N, T, D) of the images in reading order, or
    pixels (N, 3, H, W) where the tower is trained.
    Supervised token s stands after position `positions[s]` of row `rows[s]`, and is `targets[s]`.
    """

    input_ids: mx.array
    attention_mask: mx.array | None
    token_type_ids: mx.array | None
    features: mx.array | None
    pixels: mx.array | None
    rows: mx.array
    positions: mx.array
    targets: mx.array
    case_ids: tuple[str, ...]

    @property
    def supervised(self) -> int:
        """How many tokens the loss is taken on."""
        return self.targets.shape[0]


def order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of one epoch's batches: each row once, shuffled by (seed, epoch), like lengths together.

    At most one batch is smaller than `batch_size`; the batches are shuffled too.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = [int(index) for index in rng.permutation(len(lengths))]
    batches: list[list[int]] = []
    for start in range(0, len(shuffled), batch_size * _POOL):
        pool = sorted(shuffled[start : start + batch_size * _POOL], key=lambda i: -(lengths[i] // _GRAIN))
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[int(index)] for index in rng.permutation(len(batches))]


def in_order(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of batches for validation: longest rows first, so that memory peaks at once."""
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [longest_first[start : start + batch_size] for start in range(0, len(lengths), batch_size)]


def collate(examples: Sequence[Example], source: ImageSource, config: ModelConfig) -> Batch:
    """Put `examples` into one batch, in their order."""
    length = max(len(example) for example in examples)
    ids = np.full((len(examples), length), config.pad_token_id, dtype=np.int32)  # (B, L)
    mask, supervised = np.zeros_like(ids), np.zeros(ids.shape, dtype=np.bool_)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example.ids
        mask[row, : len(example)] = 1
        supervised[row, : len(example)] = example.supervised
    rows, positions = np.nonzero(supervised[:, 1:])  # (S,): the token after `positions` is supervised
    images = [image for example in examples for image in example.images]
    seen = source.stack(images) if images else None
    raw = isinstance(source, PixelSource)
    soft = ((ids == config.image_token_id) & (mask == 1)).astype(np.int32)
    return Batch(
        input_ids=mx.array(ids),
        attention_mask=None if mask.all() else mx.array(mask),
        token_type_ids=mx.array(soft) if images else None,
        features=None if raw else seen,
        pixels=seen if raw else None,
        rows=mx.array(rows.astype(np.int32)),
        positions=mx.array(positions.astype(np.int32)),
        targets=mx.array(ids[rows, positions + 1]),
        case_ids=tuple(example.case_id for example in examples),
    )
