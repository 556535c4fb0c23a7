from collections.abc import Callable

import pytest
from statsmodels.stats.proportion import proportion_confint

from mlx_medlora.evaluation.measures import scores
from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.evaluation.sample_size import cases_for_margin, cases_to_show, sample_size
from mlx_medlora.evaluation.tally import Tally

Make = Callable[..., list[Prediction]]


def bounds(share: float, n: int) -> tuple[float, float]:
    low, high = proportion_confint(share * n, n, method="wilson")
    return float(low), float(high)


@pytest.mark.parametrize(
    ("share", "bound"), [(1.0, 0.9), (0.95, 0.9), (0.99, 0.95), (0.85, 0.9), (0.0, 0.05), (0.02, 0.05)]
)
def test_the_number_that_shows_it_is_the_first_that_does(share: float, bound: float) -> None:
    needed = cases_to_show(share, bound)
    assert needed is not None
    side = 0 if share > bound else 1
    sign = 1 if share > bound else -1
    assert sign * (bounds(share, needed)[side] - bound) >= -1e-9
    assert sign * (bounds(share, needed - 1)[side] - bound) < 0


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
            "8 cases cannot show 90 %: even with every answer right it takes 35; at 100.0 % right it takes",
        ),
        (
            7,
            1,
            "8 cases cannot show 90 %: even with every answer right it takes 35; at 87.5 % right no number",
        ),
        (46, 4, "50 cases do not show 90 %; at 92.0 % right it takes about 865"),
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
    assert (f"about {found.for_margin} cases" in found.sentence) == (right + wrong < found.for_margin)
