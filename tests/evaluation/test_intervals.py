import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef
from statsmodels.stats.proportion import proportion_confint

from mlx_medlora.evaluation.intervals import auroc_interval, kish, mean_of_two, wilson, wilson_effective
from mlx_medlora.evaluation.matthews import matthews, matthews_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # By hand with z = 1.959964: centre (p + z²/2n) / (1 + z²/n), and so on.
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (180, 200, 0.8506, 0.9343),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_against_hand_worked_numbers(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_against_statsmodels(level: float) -> None:
    rng = np.random.default_rng(0)
    for n in rng.integers(1, 500, 40):
        k = int(rng.integers(0, n + 1))
        theirs = proportion_confint(k, n, alpha=1 - level, method="wilson")
        assert wilson(k, int(n), level) == pytest.approx(theirs, abs=1e-12)
        assert wilson_effective(k / n, float(n), level) == pytest.approx(theirs, abs=1e-12)


def test_the_ends_are_exact() -> None:
    """Rounding left 1 - 1e-16 for some numbers of cases, and a gate at 100 % failed."""
    for n in range(1, 400):
        for found in (wilson(n, n), wilson_effective(1.0, n), wilson_effective(1.0, n + 0.3)):
            assert found is not None
            assert found[1] == 1.0
        for found in (wilson(0, n), wilson_effective(0.0, n), wilson_effective(0.0, n + 0.3)):
            assert found is not None
            assert found[0] == 0.0


def test_unequal_sizes_are_worth_fewer() -> None:
    assert kish([3, 3, 3, 3]) == 4
    assert kish([1, 1, 2]) == pytest.approx(16 / 6)


@pytest.mark.parametrize("seed", range(3))
def test_the_correlation_from_its_rates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    error, said = rng.random(80) < 0.4, rng.random(80) < 0.5
    found, passed, share = said[error].mean(), (~said[~error]).mean(), error.mean()
    expected = matthews_corrcoef(error, said)
    assert matthews(float(found), float(passed), float(share)) == pytest.approx(expected)
    assert matthews(1.0, 0.0, 0.4) == matthews(0.0, 1.0, 0.4) == 0.0
    whole = matthews_interval(1.0, (0.8, 1.0), 1.0, (0.7, 1.0), 0.4)
    one, other = 1 - matthews(0.8, 1.0, 0.4), 1 - matthews(1.0, 0.7, 0.4)
    assert whole == (pytest.approx(1 - np.hypot(one, other)), 1.0)


def test_no_cases_give_no_interval() -> None:
    assert wilson(0, 0) is None


def test_a_wider_level_gives_a_wider_interval() -> None:
    narrow, wide = wilson(30, 40, 0.8), wilson(30, 40, 0.99)
    assert narrow is not None
    assert wide is not None
    assert wide[0] < narrow[0] < 0.75 < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 4), (1, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} successes out of {n} cases"):
        wilson(successes, n)


def test_the_mean_of_two_by_hand() -> None:
    # sqrt(0.3² + 0.4²) = 0.5 below, sqrt(0.06² + 0.08²) = 0.1 above the sum of 1.6
    assert mean_of_two(0.8, (0.5, 0.86), 0.8, (0.4, 0.88)) == pytest.approx((0.55, 0.85))


def test_the_mean_of_two_is_half_newcombe_s_difference() -> None:
    """(a + b) / 2 is (a - (1 - b) + 1) / 2: statsmodels has the difference of two shares."""
    from statsmodels.stats.proportion import confint_proportions_2indep

    a, b = wilson(37, 50), wilson(61, 70)
    assert a is not None
    assert b is not None
    low, high = confint_proportions_2indep(37, 50, 70 - 61, 70, method="newcomb", compare="diff")
    ours = mean_of_two(37 / 50, a, 61 / 70, b)
    assert ours == pytest.approx(((1 + low) / 2, (1 + high) / 2), abs=1e-9)


def test_the_interval_of_an_area_solves_its_equation() -> None:
    """At either bound the area seen is 1.96 standard errors away, the error being that of the bound."""
    for area, errors, valid in ((0.8, 20, 30), (0.5, 5, 7), (0.97, 100, 60), (1.0, 9, 12)):
        low, high = auroc_interval(area, errors, valid)
        assert 0 <= low < area <= high <= 1
        for bound in {low, high} - {0.0, 1.0}:
            half = (errors + valid) / 2 - 1
            spread = 1 + half * ((1 - bound) / (2 - bound) + bound / (1 + bound))
            error = np.sqrt(bound * (1 - bound) * spread / (errors * valid))
            assert abs(area - bound) == pytest.approx(1.959964 * error, rel=1e-5)


def test_a_perfect_area_on_few_cases_is_not_sure() -> None:
    small, large = auroc_interval(1.0, 4, 4), auroc_interval(1.0, 100, 100)
    assert small[1] == large[1] == 1.0
    assert small[0] < 0.7 < 0.97 < large[0]
    assert auroc_interval(0.0, 4, 4) == pytest.approx((0.0, 1 - small[0]))
