import pytest

from mlx_medlora.evaluation.intervals import wilson


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
