from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from mlx_medlora.evaluation.calibration import reliability
from mlx_medlora.evaluation.intervals import wilson, wilson_effective
from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.evaluation.tally import Tally
from mlx_medlora.evaluation.temperature import fit_temperature, log_odds, tempered

Make = Callable[..., list[Prediction]]


def test_by_hand(scored: Make) -> None:
    # bin 0.8-0.9: two cases said 0.8 on average, one an error; bin 0.1-0.2: two cases said 0.1, none an error
    cases = scored([("ERROR", 0.8), ("CORRECT", 0.8), ("CORRECT", 0.1), ("CORRECT", 0.1)])
    found = reliability(Tally.of(cases))
    assert found is not None
    assert found.ece == pytest.approx((2 * abs(0.8 - 0.5) + 2 * 0.1) / 4)
    assert found.brier.value == pytest.approx((0.2**2 + 0.8**2 + 0.1**2 + 0.1**2) / 4)
    assert (found.brier.interval, found.brier.n) == (wilson_effective(0.175, 4), 4)
    assert (found.brier.interval_method, found.brier.reason) == ("Wilson", None)
    full = [one for one in found.bins if one.n]
    assert [(one.low, one.n, one.errors, one.share) for one in full] == [(0.1, 2, 0, 0.0), (0.8, 2, 1, 0.5)]
    assert [one.mean for one in full] == pytest.approx([0.1, 0.8])


@pytest.mark.parametrize("seed", range(4))
def test_against_scikit_learn(seed: int, scored: Make) -> None:
    """Probabilities that fall on no edge: scikit-learn puts those into the bin below."""
    rng = np.random.default_rng(seed)
    tally = Tally.of(
        scored([(("ERROR", "CORRECT")[int(rng.random() < 0.6)], rng.random()) for _ in range(400)])
    )
    assert tally.p is not None
    found = reliability(tally, 0.7)
    assert found is not None
    p = tempered(tally.p, 0.7)
    share, mean = calibration_curve(tally.error, p, n_bins=10)
    full = [one for one in found.bins if one.n]
    assert [one.share for one in full] == pytest.approx(share)
    assert [one.mean for one in full] == pytest.approx(mean)
    sizes = np.array([one.n for one in full])
    assert found.ece == pytest.approx((sizes * np.abs(share - mean)).sum() / 400)
    assert found.brier.value == pytest.approx(brier_score_loss(tally.error, p))
    assert found.log_loss == pytest.approx(log_loss(tally.error, p))
    assert found.brier.interval is not None
    assert found.brier.value is not None
    assert found.brier.interval[0] < found.brier.value < found.brier.interval[1]


def test_bins_keep_a_patient_s_cases_together(scored: Make) -> None:
    """Forty cases of two patients are two things known, not forty."""
    rows = [("ERROR" if number < 20 else "CORRECT", 0.55) for number in range(40)]
    alone = reliability(Tally.of(scored(rows)))
    cases = [
        case.model_copy(update={"patient_id": f"p{number // 20}"}) for number, case in enumerate(scored(rows))
    ]
    two = reliability(Tally.of(cases))
    assert alone is not None
    assert two is not None
    [full], [wide] = ([one for one in found.bins if one.n] for found in (alone, two))
    assert (full.share, wide.share) == (0.5, 0.5)
    assert full.interval == pytest.approx((0.352, 0.648), abs=1e-3)
    assert wide.interval is not None
    assert wide.interval[0] < 0.1
    assert wide.interval[1] > 0.9
    assert alone.ece_interval is not None
    assert (two.ece_interval, two.log_loss_interval) == (None, None)


def test_the_interval_of_a_calibrated_model_s_error_reaches_0(scored: Make) -> None:
    """And that of one that is sure of itself beyond reason does not; both hold the true error."""
    rng = np.random.default_rng(3)
    held = {"calibrated": 0, "overconfident": 0}
    for _ in range(20):
        odds = rng.normal(0, 2.5, 120)
        error = rng.random(120) < 1 / (1 + np.exp(-odds))
        for name, sharper, true in (("calibrated", 1, 0.0), ("overconfident", 4, 0.134)):
            p = 1 / (1 + np.exp(-sharper * odds))
            rows = [
                ("ERROR" if wrong else "CORRECT", float(said)) for wrong, said in zip(error, p, strict=True)
            ]
            found = reliability(Tally.of(scored(rows)))
            assert found is not None
            assert found.ece_interval is not None
            low, high = found.ece_interval
            assert low <= found.ece <= high
            held[name] += low <= true <= high
    assert held["calibrated"] >= 18
    assert held["overconfident"] >= 17
    assert low > 0.02  # the last one, overconfident


def test_the_interval_of_the_log_loss(scored: Make) -> None:
    """That of a mean: close to the textbook's on many cases, and wider where patients repeat."""
    rng = np.random.default_rng(5)
    cases = scored([(("ERROR", "CORRECT")[int(rng.random() < 0.5)], rng.random()) for _ in range(2000)])
    tally = Tally.of(cases)
    found = reliability(tally)
    assert found is not None
    assert found.log_loss_interval is not None
    assert tally.p is not None
    each = -np.log(np.where(tally.error, tally.p, 1 - tally.p))
    half = 1.96 * each.std() / np.sqrt(2000)
    assert found.log_loss_interval == pytest.approx((each.mean() - half, each.mean() + half), abs=0.15 * half)
    certain = reliability(Tally.of(scored([("ERROR", 0.0), ("CORRECT", 1.0)] * 20)))
    assert certain is not None
    assert certain.log_loss == pytest.approx(-np.log(np.finfo(float).eps), rel=0.01)


def test_a_score_without_a_large_mistake_is_not_sure_of_itself(scored: Make) -> None:
    """Fifty cases, none of them badly wrong: resamples see small squares only."""
    found = reliability(Tally.of(scored([("ERROR", 0.97), ("CORRECT", 0.05)] * 25)))
    assert found is not None
    assert found.brier.interval is not None
    none_of_fifty = wilson(0, 50)
    assert none_of_fifty is not None
    assert found.brier.interval[1] >= none_of_fifty[1]


def test_a_score_of_few_patients_counts_them(scored: Make) -> None:
    cases = scored([("ERROR", 0.8), ("CORRECT", 0.2)] * 30)
    cases = [c.model_copy(update={"patient_id": f"p{row // 6}"}) for row, c in enumerate(cases)]
    found = reliability(Tally.of(cases))
    assert found is not None
    assert found.brier.interval == wilson_effective(found.brier.value or 0, 10)


@pytest.mark.parametrize("true", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_of_a_logistic_regression(true: float) -> None:
    """One slope and no intercept: statsmodels' fit of 1 / temperature."""
    rng = np.random.default_rng(2)
    odds = rng.normal(0, 2, 2000)
    error = rng.random(2000) < 1 / (1 + np.exp(-odds / true))
    p = 1 / (1 + np.exp(-odds))
    found, remark = fit_temperature(error, p)
    slope = sm.Logit(error.astype(float), odds[:, None]).fit(disp=0).params[0]
    assert remark is None
    assert found == pytest.approx(1 / slope, rel=1e-5)
    assert found == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize(
    ("error", "p", "said"),
    [
        ([True, False], [0.9, 0.2], "right side of one half"),
        ([True, True], [1.0, 1.0], "right side of one half"),
        ([True, False], [0.2, 0.9], "carry no information"),
        ([True, False], [0.5, 0.5], "right side of one half"),
    ],
)
def test_where_no_temperature_can_be_told_it_stays_at_1(error: list[bool], p: list[float], said: str) -> None:
    found, remark = fit_temperature(np.array(error), np.array(p))
    assert found == 1.0
    assert said in str(remark)


def test_certain_probabilities_stay_numbers() -> None:
    p = np.array([0.0, 1e-300, 0.5, 1.0])
    assert np.isfinite(log_odds(p)).all()
    for temperature in (0.01, 1.0, 50.0):
        found = tempered(p, temperature)
        assert ((found >= 0) & (found <= 1)).all()
        assert (np.diff(found) >= 0).all()
    assert tempered(p, 1.0) is p


def test_a_probability_of_one_belongs_to_the_last_bin(scored: Make) -> None:
    found = reliability(Tally.of(scored([("ERROR", 1.0), ("CORRECT", 0.0)])))
    assert found is not None
    assert (found.bins[0].n, found.bins[-1].n) == (1, 1)
    assert found.ece == 0.0
    assert found.log_loss < 1e-9
