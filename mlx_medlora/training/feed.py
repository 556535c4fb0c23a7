"""What a rank computes of an update: the shards and parts of its batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.batches import Batch, Below, collate
from mlx_medlora.training.buckets import Buckets, places
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.shapes import row_shapes


@dataclass(frozen=True)
class Feed:
    """Makes batches of rows for one of `ranks`; all of them hold `shards` of each batch."""

    config: ModelConfig
    features: ImageSource
    below: Below | None
    ranks: Ranks
    shards: int

    def batches(self, window: Sequence[Sequence[Example]], buckets: Buckets) -> Iterator[Batch]:
        """This rank's shards of each part of the window's batches, padded as the whole part is.

        A batch begins at the shard where whole ones before it would have ended: an epoch's small one moves no
        other. So, where batches divide by shards, a rank's part of each has the same shape in every epoch.
        """
        part = 0
        for place, examples in enumerate(window):
            before = place * buckets.batch_size
            rows = row_shapes(examples)
            for together in buckets.parts(rows):
                shape = buckets.shape([rows[place] for place in together])
                for shard in self.ranks.shards(self.shards):
                    at = places(len(together), shard, self.shards, before)
                    own = [examples[together[place]] for place in at]
                    if own:
                        yield collate(own, self.features, self.config, shape, self.below, at, part, shard)
                part, before = part + 1, before + len(together)

    def alone(self, example: Example) -> Batch:
        """A batch of one row."""
        return collate([example], self.features, self.config, below=self.below)
