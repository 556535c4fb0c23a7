from __future__ import annotations

import numpy as np
import pytest

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.batches import collate, in_order, order
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(20, 900, 601)]


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_each_row_once(batch_size: int) -> None:
    batches = order(LENGTHS, batch_size, seed=0, epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert len(batches) == -(-len(LENGTHS) // batch_size)
    assert sum(len(batch) != batch_size for batch in batches) <= 1


def test_seed_and_epoch_decide_the_order() -> None:
    first = order(LENGTHS, 4, seed=0, epoch=1)
    assert first == order(LENGTHS, 4, seed=0, epoch=1)
    assert first != order(LENGTHS, 4, seed=0, epoch=2)
    assert first != order(LENGTHS, 4, seed=1, epoch=1)


def test_like_lengths_stand_together() -> None:
    """Padding falls to a third or less of a random order's."""

    def padding(batches: list[list[int]]) -> int:
        return sum(max(LENGTHS[i] for i in b) * len(b) - sum(LENGTHS[i] for i in b) for b in batches)

    unsorted = [list(range(start, min(start + 4, 601))) for start in range(0, 601, 4)]
    assert padding(order(LENGTHS, 4, seed=0, epoch=1)) < padding(unsorted) / 3


def test_rows_of_near_lengths_change_partners() -> None:
    lengths = [40 + i % 20 for i in range(16)]
    partners = [{frozenset(batch) for batch in order(lengths, 4, seed=0, epoch=epoch)} for epoch in (1, 2)]
    assert partners[0] != partners[1]


def test_batches_come_in_no_order_of_length() -> None:
    longest = [max(LENGTHS[i] for i in batch) for batch in order(LENGTHS, 4, seed=0, epoch=1)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_validation_begins_with_the_longest() -> None:
    batches = in_order([5, 9, 7, 1], 2)
    assert batches == [[1, 2], [0, 3]]


def test_collate_pads_on_the_right(
    mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate(mixed, features, tiny_config)
    assert batch.input_ids.shape == (4, max(len(row) for row in mixed))
    assert batch.attention_mask is not None
    assert batch.token_type_ids is not None
    assert batch.features is not None
    for index, row in enumerate(mixed):
        assert batch.input_ids[index].tolist()[: len(row)] == row.ids.tolist()
        assert set(batch.input_ids[index].tolist()[len(row) :]) <= {tiny_config.pad_token_id}
        assert batch.attention_mask[index].sum().item() == len(row)
    soft = tiny_config.mm_tokens_per_image
    assert batch.token_type_ids.sum(axis=1).tolist() == [0, soft, 2 * soft, 0]
    assert batch.features.shape == (3, soft, tiny_config.text.hidden_size)
    assert batch.case_ids == ("text", "one", "two", "long")
