from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from mlx_medlora.evaluation.intervals import wilson_effective
from mlx_medlora.evaluation.measures import scores
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.evaluation.sample_size import cases_for_margin, cases_to_show, design_effect, sample_size
from mlx_medlora.evaluation.tally import Tally

Make = Callable[..., list[Prediction]]


def bounds(share: float, n: int) -> tuple[float, float]:
    low, high = proportion_confint(share * n, n, method="wilson")
    return float(low), float(high)


@pytest.mark.parametrize(
    ("share", "bound"), [(1.0, 0.9), (0.95, 0.9), (0.99, 0.95), (0.85, 0.9), (0.0, 0.05), (0.02, 0.05)]
)
def test_the_number_that_shows_it_is_the_first_that_does(share: float, bound: float) -> None:
    needed = cases_to_show(share, bound, power=0.5)  # the share seen is then the true one
    assert needed is not None
    side = 0 if share > bound else 1
    sign = 1 if share > bound else -1
    assert sign * (bounds(share, needed)[side] - bound) >= -1e-9
    assert sign * (bounds(share, needed - 1)[side] - bound) < 0


@pytest.mark.parametrize(
    ("share", "bound"), [(0.938, 0.9), (0.95, 0.9), (0.97, 0.95), (0.99, 0.95), (0.8, 0.9)]
)
def test_so_many_cases_show_it_four_times_in_five(share: float, bound: float) -> None:
    """The exact chance, which jumps about 80 % from one number to the next."""
    n = cases_to_show(share, bound)
    assert n is not None

    def power(cases: int) -> float:
        counts = np.arange(cases + 1)
        side = 0 if share > bound else 1
        limits = np.array([wilson_effective(k / cases, cases)[side] for k in counts])
        met = limits >= bound if share > bound else limits < bound
        return float(binom.pmf(counts, cases, share)[met].sum())

    assert 0.76 < power(n) < 0.84


def test_at_the_bound_no_number_would() -> None:
    assert cases_to_show(0.9, 0.9) is None


@pytest.mark.parametrize(("share", "margin"), [(0.5, 0.05), (0.9, 0.05), (1.0, 0.01), (0.97, 0.3)])
def test_the_number_for_a_margin_is_the_first_that_keeps_it(share: float, margin: float) -> None:
    needed = cases_for_margin(share, margin)

    def reach(n: int) -> float:
        low, high = bounds(share, n)
        return max(share - low, high - share)

    assert reach(needed) <= margin
    assert needed == 1 or reach(needed - 1) > margin


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            8,
            0,
            "8 cases cannot show 90 %: even with every answer right it takes 35. Knowing",
        ),
        (
            7,
            1,
            "8 cases cannot show 90 %: even with every answer right it takes 35; at 87.5 % right no number",
        ),
        (46, 4, "50 cases do not show 90 %; at 92.0 % right it takes about 1666 (80 % power)"),
        (200, 2, "202 cases: accuracy is above 90 % with the interval."),
        (20, 40, "60 cases: accuracy is below 90 % with the interval."),
        (1, 0, "1 case cannot show 90 %"),
    ],
)
def test_the_sentence(right: int, wrong: int, said: str, table: Make) -> None:
    cases = table([("ERROR", "ERROR", right), ("ERROR", "CORRECT", wrong)])
    found = sample_size(scores(Tally.of(cases)), 0.9, 0.05)
    assert found.sentence.startswith(said)
    assert found.least == 35
    assert ("Knowing it to 5 points" in found.sentence) == (right + wrong < 200)


def test_the_margin_says_for_which_accuracy(table: Make) -> None:
    """Eight of eight may be 67.6 % as well, for which it takes five times as many."""
    found = sample_size(scores(Tally.of(table([("ERROR", "ERROR", 8)]))), 0.9, 0.05)
    low = bounds(1.0, 8)[0]
    assert found.for_margin == cases_for_margin(low, 0.05)
    assert found.sentence.endswith(
        f"takes about 73 cases of as many patients if it is 100.0 %, {found.for_margin} if it is 67.6 %."
    )


def test_patients_are_what_it_takes(table: Make) -> None:
    """Thirty patients of ten cases, all right: as many as thirty cases, which is too few."""
    cases = table([("ERROR", "ERROR", 300)])
    cases = [c.model_copy(update={"patient_id": f"p{row // 10}"}) for row, c in enumerate(cases)]
    found = score(cases).sample_size
    assert found is not None
    assert found.sentence.startswith(
        "300 cases of 30 patients cannot show 90 %: even with every answer right it takes 35 patients."
    )
    assert found.design_effect == pytest.approx(10)
    assert found.for_target == 346  # 34.6 patients' worth of ten cases


def test_an_interval_of_wilson_s_has_no_design_effect() -> None:
    for count, n, bound in ((45, 50, 0.8), (45, 50, 0.95), (0, 9, 0.1), (9, 9, 0.5)):
        assert design_effect(count / n, wilson_effective(count / n, n), n, bound) == 1.0
