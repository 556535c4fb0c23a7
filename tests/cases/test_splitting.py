from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_medlora.cases.splitting import assign, split_sizes
from mlx_medlora.errors import InputError


def test_sizes_are_shares_or_counts():
    assert split_sizes(100, {"val": 0.2, "test": 0.1}) == {"train": 70, "val": 20, "test": 10}
    assert split_sizes(100, {"val": 30, "test": 0}) == {"train": 70, "val": 30}
    assert split_sizes(3, {"val": 0.01}) == {"train": 2, "val": 1}


@pytest.mark.parametrize("share", [-0.1, float("nan"), float("inf"), 1.5])
def test_a_size_without_meaning_is_refused(share):
    with pytest.raises(InputError, match="the size of the val split must be a share below 1 or a count"):
        split_sizes(10, {"val": share})


@pytest.mark.parametrize(("total", "val"), [(1, 0.2), (5, 5), (5, 9)])
def test_an_empty_train_split_is_refused(total, val):
    with pytest.raises(InputError, match=f"the train split would be empty: .*, of {total} in all"):
        split_sizes(total, {"val": val})


CASES = st.lists(
    st.tuples(st.sampled_from(["mri", "xray"]), st.sampled_from(["ERROR", "CORRECT"]), st.integers(0, 15)),
    min_size=6,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(cases=CASES, seed=st.integers(0, 5), val=st.floats(0.1, 0.4), test=st.sampled_from([0.0, 0.2]))
def test_no_patient_is_in_two_splits_and_none_is_empty(cases, seed, val, test):
    patients = {patient for _, _, patient in cases}
    sizes = split_sizes(len(cases), {"val": val, "test": test})
    keys = [frozenset({f"patient {patient}"}) for _, _, patient in cases]
    strata = [(modality, label) for modality, label, _ in cases]
    if len(patients) < len(sizes):
        with pytest.raises(InputError, match="cannot fill"):
            assign(strata, keys, sizes, seed)
        return
    sides = assign(strata, keys, sizes, seed)
    assert set(sides) == set(sizes)
    held = defaultdict(set)
    for side, (_, _, patient) in zip(sides, cases, strict=True):
        held[patient].add(side)
    assert {len(splits) for splits in held.values()} == {1}
    assert sides == assign(strata, keys, sizes, seed)


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=2, max_size=6), seed=st.integers(0, 5))
def test_without_patients_every_stratum_gets_nearly_its_share(counts, seed):
    strata = [(f"m{index}", "ERROR") for index, count in enumerate(counts) for _ in range(count)]
    if len(strata) < 4:
        return
    sizes = split_sizes(len(strata), {"val": 0.25})
    sides = assign(strata, [frozenset()] * len(strata), sizes, seed)
    assert Counter(sides) == sizes
    for index, count in enumerate(counts):
        got = list(zip(strata, sides, strict=True)).count(((f"m{index}", "ERROR"), "val"))
        assert abs(got - count * sizes["val"] / len(strata)) < 2


def test_cases_tied_through_a_third_stay_together():
    keys = [frozenset("a"), frozenset("b"), frozenset("ab"), frozenset("c"), frozenset("d")]
    sides = assign([("m", "ERROR")] * 5, keys, {"train": 4, "val": 1}, seed=0)
    assert sides[0] == sides[1] == sides[2]


def test_the_seed_changes_the_split():
    strata, keys, sizes = [("m", "ERROR")] * 40, [frozenset()] * 40, {"train": 30, "val": 10}
    assert assign(strata, keys, sizes, 0) != assign(strata, keys, sizes, 1)
