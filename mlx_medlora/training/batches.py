"""Examples become batches of few, fixed shapes: rows of like length together, in a seeded order.

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
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource, PixelSource

_SPREAD = 1.08  # the longest row of a bucket against its shortest: at most 7.4 % of the bucket is padding


class Shape(NamedTuple):
    """How long a batch's rows are made: `length` tokens, `supervised` of them with a loss."""

    length: int
    supervised: int

    def joined(self, other: Shape) -> Shape:
        """The shape that holds rows of both."""
        return Shape(max(self.length, other.length), max(self.supervised, other.supervised))


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
    """Arrays, how many supervised tokens they hold, the cases they were made of, the images of each."""

    arrays: Arrays
    supervised: int
    case_ids: tuple[str, ...]
    images: tuple[int, ...]


class Buckets:
    """Which shapes the batches of `examples` take: the same in every epoch, so that each is compiled once."""

    def __init__(self, examples: Sequence[Example], batch_size: int) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.shapes: list[Shape] = []  # from the longest to the shortest
        for example in sorted(examples, key=len, reverse=True):
            own = Shape(len(example), example.targets)
            if self.shapes and len(example) * _SPREAD > self.shapes[-1].length:
                self.shapes[-1] = self.shapes[-1].joined(own)
            else:
                self.shapes.append(own)
        self._keys = [(-self._bucket(e), len(e.images)) for e in examples]

    def shape(self, examples: Sequence[Example]) -> Shape:
        """The shape of a batch of `examples`."""
        found = self.shapes[self._bucket(examples[0])]
        for example in examples[1:]:
            found = found.joined(self.shapes[self._bucket(example)])
        return found

    def _bucket(self, example: Example) -> int:
        fitting = [i for i, shape in enumerate(self.shapes) if len(example) <= shape.length]
        return fitting[-1] if fitting else 0

    def epoch(self, seed: int, epoch: int) -> list[list[int]]:
        """Indices of one epoch's batches: each row once, shuffled by (seed, epoch), like rows together.

        One batch at most is smaller than `batch_size`. How many rows of each bucket, and with how many
        images, share a batch is the same in each epoch; the batches are shuffled too.
        """
        rng = np.random.default_rng([seed, epoch])
        shuffled = sorted(rng.permutation(len(self.examples)).tolist(), key=self._keys.__getitem__)
        batches = [shuffled[i : i + self.batch_size] for i in range(0, len(shuffled), self.batch_size)]
        return [batches[index] for index in rng.permutation(len(batches)).tolist()]

    def in_order(self) -> list[list[int]]:
        """Indices of batches for validation: longest rows first, so that memory peaks at once."""
        rows = sorted(range(len(self.examples)), key=self._keys.__getitem__, reverse=True)
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def padding(self) -> float:
        """The share of an epoch's positions that are padding."""
        places = 0
        for batch in self.in_order():
            places += len(batch) * self.shape([self.examples[index] for index in batch]).length
        return 1 - sum(len(example) for example in self.examples) / places


def collate(
    examples: Sequence[Example],
    source: ImageSource,
    config: ModelConfig,
    shape: Shape | None = None,
    below: Below | None = None,
) -> Batch:
    """Put `examples` into one batch, in their order, padded to `shape` or else to the longest.

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
    return Batch(arrays, sum(e.targets for e in examples), cases, counts)
