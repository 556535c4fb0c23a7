from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.batches import Buckets, collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(20, 900, 601)]


def example(length: int, answer: int = 3, images: int = 0) -> Example:
    supervised = np.arange(length) >= length - answer
    files = tuple(Path(f"{index}.png") for index in range(images))
    return Example(np.ones(length, np.int32), supervised, files, str(length), "train.jsonl:1")


def buckets(lengths: list[int], batch_size: int = 4) -> Buckets:
    return Buckets([example(length) for length in lengths], batch_size)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 1000])
def test_each_row_once(batch_size: int) -> None:
    batches = buckets(LENGTHS, batch_size).epoch(seed=0, epoch=1)
    assert sorted(index for batch in batches for index in batch) == list(range(len(LENGTHS)))
    assert len(batches) == -(-len(LENGTHS) // batch_size)
    assert sum(len(batch) != batch_size for batch in batches) <= 1


def test_seed_and_epoch_decide_the_order() -> None:
    made = buckets(LENGTHS)
    assert made.epoch(seed=0, epoch=1) == buckets(LENGTHS).epoch(seed=0, epoch=1)
    assert made.epoch(seed=0, epoch=1) != made.epoch(seed=0, epoch=2)
    assert made.epoch(seed=0, epoch=1) != made.epoch(seed=1, epoch=1)


@given(st.lists(st.integers(20, 900), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 99))
def test_each_epoch_has_the_same_shapes(lengths: list[int], batch_size: int, seed: int) -> None:
    """Rows, tokens, supervised tokens and images of its batches: nothing is traced a second time."""
    rows = [example(length, answer=1 + length % 7, images=length % 3) for length in lengths]
    made = Buckets(rows, batch_size)
    seen = []
    for epoch in (1, 2, 3):
        batches = [[rows[index] for index in batch] for batch in made.epoch(seed, epoch)]
        for batch in batches:
            assert all(len(row) <= made.shape(batch).length for row in batch)
            assert all(row.targets <= made.shape(batch).supervised for row in batch)
        seen.append(Counter((len(b), made.shape(b), sum(len(r.images) for r in b)) for b in batches))
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("spread", ["even", "two lengths", "few long"])
def test_padding_stays_under_8_percent_and_shapes_are_few(spread: str) -> None:
    lengths = {
        "even": LENGTHS,
        "two lengths": [300 + 24 * (i % 2) for i in range(100)],
        "few long": [300 + i % 40 for i in range(390)] + [600 + 20 * i for i in range(10)],
    }[spread]
    made = buckets(lengths)
    assert made.padding() < 0.08
    assert len(made.shapes) <= 50
    unsorted = [lengths[i : i + 4] for i in range(0, len(lengths), 4)]
    if spread == "even":
        assert 1 - sum(lengths) / sum(4 * max(b) for b in unsorted) > 0.3


def test_rows_of_near_lengths_change_partners() -> None:
    made = buckets([400 + i % 20 for i in range(16)])
    partners = [{frozenset(batch) for batch in made.epoch(0, epoch)} for epoch in (1, 2)]
    assert partners[0] != partners[1]


def test_batches_come_in_no_order_of_length() -> None:
    longest = [max(LENGTHS[i] for i in batch) for batch in buckets(LENGTHS).epoch(seed=0, epoch=1)]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_validation_begins_with_the_longest() -> None:
    assert [sorted(batch) for batch in buckets([50, 90, 70, 10], 2).in_order()] == [[1, 2], [0, 3]]


def test_collate_pads_on_the_right(
    mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate(mixed, features, tiny_config)
    arrays = batch.arrays
    assert arrays.input_ids.shape == (4, max(len(row) for row in mixed))
    assert arrays.token_type_ids is not None
    assert arrays.features is not None
    for index, row in enumerate(mixed):
        assert arrays.input_ids[index].tolist()[: len(row)] == row.ids.tolist()
        assert set(arrays.input_ids[index].tolist()[len(row) :]) <= {tiny_config.pad_token_id}
        assert arrays.weights[index].sum().item() == row.targets
    soft = tiny_config.mm_tokens_per_image
    assert arrays.token_type_ids.sum(axis=1).tolist() == [0, soft, 2 * soft, 0]
    assert arrays.features.shape == (3, soft, tiny_config.text.hidden_size)
    assert batch.case_ids == ("text", "one", "two", "long")
