"""Which rows share a batch, and how long they are made: few shapes, the same in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mlx_medlora.training.shapes import RowShape, StepShape

_SPREAD = 1.08  # the longest row of a bucket against its shortest: at most 7.4 % of the bucket is padding
MOST_PADDING = 0.08  # of any part of a batch, by the mean lengths of its rows' buckets


class Shape(NamedTuple):
    """How long a part's rows are made: `length` tokens, `supervised` of them with a loss."""

    length: int
    supervised: int

    def joined(self, other: Shape) -> Shape:
        """The shape that holds rows of both."""
        return Shape(max(self.length, other.length), max(self.supervised, other.supervised))


class Buckets:
    """Rows of like length, and the batches that they make: each shape comes in every epoch.

    A batch whose rows are of very different lengths is computed in parts, whose gradients are summed: so
    less than 8 % of all positions are padding, whatever the lengths, and no update changes by it.
    """

    def __init__(self, rows: Sequence[RowShape], batch_size: int) -> None:
        """`rows` are those of a split; at most one batch of an epoch is smaller than `batch_size`."""
        self.rows, self.batch_size = rows, batch_size
        self.shapes: list[Shape] = []  # from the longest to the shortest
        for own in sorted({Shape(row.tokens, row.targets) for row in rows}, reverse=True):
            if self.shapes and own.length * _SPREAD > self.shapes[-1].length:
                self.shapes[-1] = self.shapes[-1].joined(own)
            else:
                self.shapes.append(own)
        self._lengths = np.array([-shape.length for shape in self.shapes])  # rising
        tokens = np.array([row.tokens for row in rows], dtype=np.int64)
        self._own = self._buckets(rows)
        self._images = np.array([row.images for row in rows], dtype=np.int64)
        counts = np.maximum(np.bincount(self._own, minlength=len(self.shapes)), 1)
        self._means = np.bincount(self._own, tokens, minlength=len(self.shapes)) / counts

    def _buckets(self, rows: Sequence[RowShape]) -> npt.NDArray[np.int64]:
        """The narrowest bucket that each of `rows` fits into; the widest for one that fits into none."""
        lengths = np.array([-row.tokens for row in rows], dtype=np.int64)
        return np.maximum(np.searchsorted(self._lengths, lengths, side="right") - 1, 0)

    def shape(self, rows: Sequence[RowShape]) -> Shape:
        """The shape in which `rows` are computed together."""
        return self._joined(self._buckets(rows).tolist())

    def _joined(self, buckets: Sequence[int]) -> Shape:
        found = [self.shapes[bucket] for bucket in set(buckets)]
        return Shape(max(one.length for one in found), max(one.supervised for one in found))

    def parts(self, rows: Sequence[RowShape]) -> list[list[int]]:
        """Places in `rows` (one batch) that are computed together: as few parts as keep padding low.

        A batch with little padding stays whole and in its order.
        """
        return self._parts(self._buckets(rows).tolist())

    def _parts(self, own: Sequence[int]) -> list[list[int]]:
        """By the rows' buckets alone, so that an epoch's parts have the shapes of any other's.

        Taking rows from the longest on, for as long as they fit, gives the fewest parts.
        """
        found: list[list[int]] = []
        for place in sorted(range(len(own)), key=own.__getitem__):  # stable, the longest first
            if found and self._fit([own[other] for other in (*found[-1], place)]):
                found[-1].append(place)
            else:
                found.append([place])
        return [list(range(len(own)))] if len(found) == 1 else found

    def _fit(self, buckets: Sequence[int]) -> bool:
        """True where rows of these buckets, of mean length, are padded by less than `MOST_PADDING`."""
        tokens = sum(self._means[bucket] for bucket in buckets)
        return bool(tokens > (1 - MOST_PADDING) * len(buckets) * self._joined(buckets).length)

    def epoch(self, seed: int, epoch: int) -> list[list[int]]:
        """Indices of one epoch's batches: each row once, shuffled by (seed, epoch), like rows together.

        One batch at most is smaller than `batch_size`. How many rows of each bucket, and with how many
        images, share a batch is the same in each epoch; the batches are shuffled too.
        """
        rng = np.random.default_rng([seed, epoch])
        mixed = rng.permutation(len(self.rows))
        batches = self._cut(mixed[np.lexsort((self._images[mixed], -self._own[mixed]))])  # stable
        return [batches[index].tolist() for index in rng.permutation(len(batches))]

    def in_order(self) -> list[list[int]]:
        """Indices of batches for validation: longest rows first, so that memory peaks at once."""
        return [batch.tolist() for batch in self._cut(np.lexsort((-self._images, self._own)))]

    def _cut(self, order: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        return [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]

    def steps(self) -> list[list[StepShape]]:
        """The parts of each batch of an epoch, as the step sees them: the same in every epoch."""
        known: dict[bytes, list[StepShape]] = {}  # most batches are alike
        found = []
        for batch in self._cut(np.lexsort((self._images, -self._own))):
            own, images = self._own[batch], self._images[batch]
            like = own.tobytes() + images.tobytes()
            if like not in known:
                parts = self._parts(own.tolist())
                known[like] = [self._step(own[part].tolist(), int(images[part].sum())) for part in parts]
            found.append(known[like])
        return found

    def _step(self, buckets: Sequence[int], images: int) -> StepShape:
        length, supervised = self._joined(buckets)
        return StepShape(len(buckets), length, len(buckets) * supervised, images)

    def padding(self) -> float:
        """The share of an epoch's positions that are padding."""
        places = sum(part.positions for batch in self.steps() for part in batch)
        return 1 - sum(row.tokens for row in self.rows) / places


def places(rows: int, shard: int, shards: int, before: int = 0) -> range:
    """Which of a part's `rows` are in `shard`: every shards-th, so that shards differ by one at most.

    `before`: rows of the same update that are in shards already, so that whole updates differ by no more.
    """
    return range((shard - before) % shards, rows, shards)


def costliest(rows: Sequence[RowShape], batch_size: int, shards: int = 1) -> StepShape:
    """The part of an epoch over `rows` that holds most positions, as one of `shards` sees it.

    Its `parts` are the most of any batch.
    """
    batches = Buckets(rows, batch_size).steps()
    most = max(
        {part for batch in batches for part in batch},
        key=lambda part: (part.positions, part.targets, part.images),
    )
    own = -(-most.rows // shards)
    targets, images = most.targets // most.rows * own, -(-most.images // shards)
    return StepShape(own, most.length, targets, images, max(len(batch) for batch in batches))
