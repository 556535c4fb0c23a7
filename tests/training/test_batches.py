from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.batches import collate
from mlx_medlora.training.buckets import Buckets, costliest
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.shapes import RowShape

LENGTHS = [int(n) for n in np.random.default_rng(0).integers(20, 900, 601)]


def buckets(lengths: list[int], batch_size: int = 4) -> Buckets:
    return Buckets([RowShape(length, 3, 0) for length in lengths], batch_size)


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


ROWS = st.lists(st.integers(20, 900), min_size=1, max_size=200)


@given(ROWS, st.integers(1, 20), st.integers(0, 99))
def test_each_epoch_has_the_same_shapes(lengths: list[int], batch_size: int, seed: int) -> None:
    """Rows, tokens, supervised tokens and images of its parts: nothing is traced a second time."""
    rows = [RowShape(length, 1 + length % 7, length % 3) for length in lengths]
    made = Buckets(rows, batch_size)
    seen = []
    for epoch in (1, 2, 3):
        shapes: Counter[tuple[int, ...]] = Counter()
        for batch in made.epoch(seed, epoch):
            shared = [rows[index] for index in batch]
            parts = made.parts(shared)
            assert sorted(place for part in parts for place in part) == list(range(len(batch)))
            for part in parts:
                own = [shared[place] for place in part]
                length, supervised = made.shape(own)
                assert all(row.tokens <= length and row.targets <= supervised for row in own)
                shapes[len(own), length, supervised * len(own), sum(row.images for row in own)] += 1
        seen.append(shapes)
    assert seen[0] == seen[1] == seen[2] == Counter(tuple(p[:4]) for b in made.steps() for p in b)


@given(ROWS, st.integers(1, 20))
def test_padding_stays_under_8_percent_whatever_the_lengths(lengths: list[int], batch_size: int) -> None:
    made = buckets(lengths, batch_size)
    places = 0
    for batch in made.epoch(0, 1):
        rows = [made.rows[index] for index in batch]
        shapes = [[rows[place] for place in part] for part in made.parts(rows)]
        places += sum(len(part) * made.shape(part).length for part in shapes)
    assert 1 - sum(lengths) / places == pytest.approx(made.padding())
    assert made.padding() < 0.08


@pytest.mark.parametrize("spread", ["even", "sparse", "two lengths", "few long"])
def test_shapes_and_parts_are_few(spread: str) -> None:
    lengths, batch_size, most = {
        "even": (LENGTHS, 4, 1.1),
        "sparse": ([int(n) for n in np.random.default_rng(1).integers(50, 900, 200)], 16, 2.0),
        "two lengths": ([300 + 24 * (i % 2) for i in range(100)], 4, 1.0),
        "few long": ([300 + i % 40 for i in range(390)] + [600 + 20 * i for i in range(10)], 4, 1.1),
    }[spread]
    made = buckets(lengths, batch_size)
    assert len(made.shapes) <= 50
    assert sum(len(batch) for batch in made.steps()) <= most * len(made.steps())
    if spread == "sparse":  # whole batches would be padded by more
        whole = [[made.rows[index] for index in batch] for batch in made.epoch(0, 1)]
        assert 1 - sum(lengths) / sum(len(b) * made.shape(b).length for b in whole) > 0.08


def test_a_batch_of_unlike_rows_is_computed_in_the_fewest_parts() -> None:
    made = buckets([900, 300, 295, 100, 100, 98], 6)
    assert made.parts(made.rows) == [[0], [1, 2], [3, 4, 5]]
    assert made.parts(made.rows[1:3]) == [[0, 1]]
    assert costliest(made.rows, 6) == (1, 900, 3, 0, 3)
    assert costliest([RowShape(50, 2, 1)] * 8, 6, shards=4) == (2, 50, 4, 2, 1)


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
