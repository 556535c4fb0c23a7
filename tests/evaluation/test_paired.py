"""Intervals of paired differences where patients have several cases."""

import numpy as np
import pytest
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from mlx_medlora.evaluation.paired import (
    AS_PATIENTS,
    BY_PATIENT,
    balanced_difference,
    balanced_share,
    newcombe,
    paired_difference,
)
from mlx_medlora.evaluation.results import Measure


def width(found: Measure) -> float:
    assert found.interval is not None
    return found.interval[1] - found.interval[0]


def of_patients(differences: list[int], size: int) -> Measure:
    """Patients of `size` cases, the second right in all and the first in none (1), or both in all (0)."""
    patient = np.repeat(np.arange(len(differences)), size)
    first = np.repeat(np.array(differences) == 0, size)
    return paired_difference(first, np.ones_like(first), patient)


@pytest.mark.parametrize("patients", [2, 5, 19, 20, 200])
def test_patients_who_are_all_alike_are_counted_as_one_case_each(patients: int) -> None:
    found = of_patients([1] * patients, 4)
    assert found.interval_method == AS_PATIENTS
    assert found.interval == pytest.approx(newcombe(0, patients, 0, 0))
    assert found.reason is None


def test_uneven_patients_are_worth_less() -> None:
    """Nineteen of one case and one of 200: as good as one and a bit."""
    patient = np.r_[np.arange(19), np.full(200, 19)]
    right = np.ones(219, bool)
    found = paired_difference(~right, right, patient)
    worth = 219**2 / (19 + 200**2)
    assert found.interval == pytest.approx(newcombe(0, worth, 0, 0))


def test_one_patient_tells_nothing_of_others() -> None:
    found = of_patients([1], 8)
    assert (found.value, found.interval) == (1.0, None)
    assert found.reason == "all cases are one patient's: nothing can be said of others"
    assert of_patients([1], 1).interval is not None  # one case, one patient: wide, but Newcombe's


@pytest.mark.parametrize(("patients", "size"), [(25, 4), (60, 3)])
def test_a_lost_patient_never_raises_the_lower_bound(patients: int, size: int) -> None:
    bounds = []
    for lost in range(10):
        found = of_patients([1] * (patients - lost) + [0] * lost, size)
        assert found.interval is not None
        bounds.append(found.interval[0])
    assert bounds == sorted(bounds, reverse=True)
    assert found.interval_method == BY_PATIENT


def test_independent_cases_are_worth_nearly_what_they_are() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 800)) < np.array([[0.5], [0.8]])
    alone = paired_difference(first, second, np.arange(800))
    found = paired_difference(first, second, np.repeat(np.arange(200), 4))
    assert width(alone) <= width(found) < 1.15 * width(alone)


def test_scaled_counts_are_those_of_fewer_cases() -> None:
    assert newcombe(6.0, 3.0, 1.5, 4.5) == pytest.approx(newcombe(6, 3, 1.5, 4.5))
    wide, narrow = newcombe(6, 3, 1, 5), newcombe(60, 30, 10, 50)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    theirs = confint_proportions_2indep(2.5, 5, 2.5, 5, method="newcomb", compare="diff")
    assert newcombe(1.25, 1.25, 1.25, 1.25) == pytest.approx(theirs, abs=1e-9)


def test_the_interval_holds_the_truth_for_few_patients() -> None:
    """Twelve patients of one to nine cases who share half of what they are."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        patient = np.repeat(np.arange(12), rng.integers(1, 10, 12))
        first, second = (
            np.where(
                rng.random(len(patient)) < 0.7, (rng.random(12) < p)[patient], rng.random(len(patient)) < p
            )
            for p in (0.5, 0.8)
        )
        interval = paired_difference(first, second, patient).interval
        assert interval is not None
        held += interval[0] <= 0.3 <= interval[1]
    assert held / 400 >= 0.94


def test_a_balanced_difference_is_the_mean_of_both_kinds() -> None:
    error = np.r_[np.ones(20, bool), np.zeros(380, bool)]
    first, second = (
        np.r_[np.zeros(20, bool), np.ones(380, bool)],
        np.r_[np.ones(12, bool), np.zeros(388, bool)],
    )
    second[26:] = True
    found = balanced_difference(first, second, error, np.arange(400), name="x", meaning="")
    assert found.value == pytest.approx((0.6 - 6 / 380) / 2)
    assert found.interval is not None
    (a, b), (c, d) = newcombe(0, 12, 0, 8), newcombe(374, 0, 6, 0)
    low = np.hypot(0.6 - a, -6 / 380 - c) / 2
    high = np.hypot(b - 0.6, d + 6 / 380) / 2
    assert found.interval == pytest.approx((found.value - low, found.value + high))
    with pytest.raises(ValueError, match="both right answers"):
        balanced_difference(first, second, np.ones(400, bool), np.arange(400), name="x", meaning="")


def test_a_balanced_share_has_the_intervals_of_its_halves() -> None:
    error = np.r_[np.ones(40, bool), np.zeros(60, bool)]
    right = np.r_[np.ones(30, bool), np.zeros(10, bool), np.ones(45, bool), np.zeros(15, bool)]
    found = balanced_share(right, error, np.arange(100), name="x", meaning="")
    less = balanced_share(right, error, np.arange(100), name="x", meaning="", less=0.5)
    (a, b), (c, d) = (proportion_confint(k, n, method="wilson") for k, n in ((30, 40), (45, 60)))
    low, high = np.hypot(0.75 - a, 0.75 - c) / 2, np.hypot(b - 0.75, d - 0.75) / 2
    assert found.interval == pytest.approx((0.75 - low, 0.75 + high))
    assert less.value == pytest.approx(0.25)
    assert less.interval == pytest.approx((0.25 - low, 0.25 + high))


@pytest.mark.parametrize("patients", [8, 40])
def test_patients_of_both_kinds_widen_a_balanced_difference(patients: int) -> None:
    """Each patient has two cases of either kind, and wins or loses all of them."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(patients), 4)
    error = np.tile([True, True, False, False], patients)
    second = (rng.random(patients) < 0.5)[patient]
    together = balanced_difference(~second, second, error, patient, name="x", meaning="")
    apart = balanced_difference(~second, second, error, np.arange(4 * patients), name="x", meaning="")
    assert width(together) > 1.6 * width(apart)


def test_the_balanced_interval_holds_the_truth_where_patients_have_both_kinds() -> None:
    rng = np.random.default_rng(4)
    held = []
    for _ in range(200):
        patient = np.repeat(np.arange(30), 4)
        error = rng.random(120) < 0.2
        own, alone = rng.random((2, 30)), rng.random((2, 120))
        draws = np.where(rng.random((2, 120)) < 0.7, own[:, patient], alone)
        first, second = draws[0] < np.where(error, 0.3, 0.9), draws[1] < np.where(error, 0.7, 0.9)
        interval = balanced_difference(first, second, error, patient, name="x", meaning="").interval
        assert interval is not None
        held.append(interval[0] <= 0.2 <= interval[1])
    assert np.mean(held) >= 0.93
