"""Examples become arrays: rows padded to one length, and what the loss is taken on.

Letters: B rows, L tokens of a row with its padding, Q supervised tokens of a row with their padding,
N images, T soft tokens an image, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.buckets import Shape
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource, PixelSource


class Below(Protocol):
    """Gives the hidden states that enter the first trained layer, where they are kept."""

    def rows(self, examples: Sequence[Example], length: int) -> mx.array:
        """(B, length, D) of `examples`."""


class Arrays(NamedTuple):
    """What the loss is computed from; rows are padded on the right, where no token that counts looks.

    input_ids (B, L); token_type_ids (B, L) 1 = soft token, None where no row has an image; features
    (N, T, D) of the images in reading order, or pixels (N, 3, H, W) where the tower is trained, or hidden
    (B, L, D) that enter the first trained layer, where they are kept. The token after `positions` (B, Q) is
    `targets` (B, Q), and counts with `weights` (B, Q): 1, or 0 where Q is padded.
    """

    input_ids: mx.array
    token_type_ids: mx.array | None
    features: mx.array | None
    pixels: mx.array | None
    positions: mx.array
    targets: mx.array
    weights: mx.array
    hidden: mx.array | None = None


@dataclass(frozen=True)
class Batch:
    """Arrays, how many supervised tokens they hold, the cases they were made of, the images of each.

    It holds those rows of part `part` of an update that are in `shard`, whose `places` in the part these are.
    """

    arrays: Arrays
    supervised: int
    case_ids: tuple[str, ...]
    images: tuple[int, ...]
    places: tuple[int, ...]
    part: int = 0
    shard: int = 0


def collate(
    examples: Sequence[Example],
    source: ImageSource,
    config: ModelConfig,
    shape: Shape | None = None,
    below: Below | None = None,
    places: Sequence[int] | None = None,
    part: int = 0,
    shard: int = 0,
) -> Batch:
    """Put `examples` into one batch, in their order, padded to `shape` or else to the longest.

    `places`, `part` and `shard` are as in `Batch`: by default it is the whole of a single part.
    With `below` it holds what enters the first trained layer, and no images.
    """
    shape = shape or Shape(max(len(e) for e in examples), max(e.targets for e in examples))
    size = (len(examples), shape.length)
    ids = np.full(size, config.pad_token_id, dtype=np.int32)  # (B, L)
    soft = np.zeros(size, dtype=np.int32)
    positions = np.zeros((len(examples), shape.supervised), dtype=np.int32)  # (B, Q)
    targets, weights = np.zeros_like(positions), np.zeros(positions.shape, dtype=np.float32)
    for row, example in enumerate(examples):
        ids[row, : len(example)] = example.ids
        soft[row, : len(example)] = example.ids == config.image_token_id
        found = np.flatnonzero(example.supervised[1:])  # the token after each of these is supervised
        positions[row, : len(found)] = found
        targets[row, : len(found)] = example.ids[found + 1]
        weights[row, : len(found)] = 1
    images = [image for example in examples for image in example.images]
    seen = source.stack(images) if images and below is None else None
    raw = isinstance(source, PixelSource)
    arrays = Arrays(
        input_ids=mx.array(ids),
        token_type_ids=mx.array(soft) if images else None,
        features=None if raw else seen,
        pixels=seen if raw else None,
        positions=mx.array(positions),
        targets=mx.array(targets),
        weights=mx.array(weights),
        hidden=below.rows(examples, shape.length) if below else None,
    )
    cases, counts = tuple(e.case_id for e in examples), tuple(len(e.images) for e in examples)
    own = tuple(range(len(examples)) if places is None else places)
    return Batch(arrays, sum(e.targets for e in examples), cases, counts, own, part, shard)
