"""Figures as text: nothing is rounded into nothing or everything."""

from collections.abc import Callable

import pytest

from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.evaluation.shown import bounds, ranged
from mlx_medlora.evaluation.tables import calibration_line, figure, scorecard_table
from mlx_medlora.percent import percent, places
from mlx_medlora.report import words


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0.0"),
        (1e-17, "0.0"),  # a bound that was computed as 0
        (1 / 2501, "< 0.1"),
        (0.0005, "0.1"),
        (0.9, "90.0"),
        (0.9994, "99.9"),
        (2500 / 2501, "> 99.9"),
        (0.9999999999999999, "100.0"),
        (1.0, "100.0"),
        (-0.0001, "> -0.1"),
        (-0.5, "-50.0"),
    ],
)
def test_places(value: float, wanted: str) -> None:
    assert places(value) == wanted
    assert percent(value) == f"{wanted} %"
    assert words.percent(value).replace("\xa0", " ") == f"{wanted} %"


@pytest.mark.parametrize(
    ("interval", "share", "wanted"),
    [
        ((0.812, 0.95), True, "81.2-95.0"),
        ((0.0, 1.0), True, "0.0-100.0"),
        ((0.97, 0.9998), True, "97.0 to > 99.9"),
        ((0.0001, 0.0004), True, "< 0.1 to < 0.1"),
        ((-0.5, 0.95), False, "-0.500 to 0.950"),
    ],
)
def test_bounds(interval: tuple[float, float], share: bool, wanted: str) -> None:
    assert bounds(interval, share=share) == wanted
    assert ranged(0.9, interval, share=share) == f"{'90.0 %' if share else '0.900'} ({wanted})"
    if share:
        assert words.span(interval).replace("\xa0", " ") == f"{' to '.join(map(places, interval))} %"


def test_one_missed_of_thousands_is_no_hundred_per_cent(table: Callable[..., list[Prediction]]) -> None:
    rows = [("ERROR", "ERROR", 2500), ("ERROR", "CORRECT", 1), ("CORRECT", "CORRECT", 2499)]
    card = score(table(rows))
    assert figure(card.tnr) == "> 99.9 % (99.8 to > 99.9), 2500 of 2501"
    assert words.figure(card.tnr) == ">\xa099.9\xa0%"
    assert words.interval(card.tnr) == "99.8 to >\xa099.9\xa0%"
    assert figure(card.fpr) == "0.0 % (0.0-0.2), 0 of 2499"


def test_the_terminal_gives_every_rate_its_interval(scored: Callable[..., list[Prediction]]) -> None:
    rows = [("ERROR", 0.9), ("CORRECT", 0.2), ("ERROR", 0.4), ("CORRECT", 0.1)] * 10
    card = score(scored(rows))
    assert card.calibration is not None
    said = calibration_line(card.calibration)
    assert said.count(" to ") == 3
    assert f"Brier {card.calibration.brier.value:.3f} (" in said
    table = scorecard_table({"val": card}, more=True)
    shown = dict(zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True))
    assert shown["unreadable answers (counted wrong)"] == "0.0 % (0.0-8.8), 0 of 40"
    assert not [name for name, cell in shown.items() if "(" not in cell]
    few = score(scored(rows[:8]))
    assert few.calibration is not None
    assert calibration_line(few.calibration).startswith("ECE 0.250 (no interval), Brier 0.")
