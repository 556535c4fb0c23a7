"""Resampling at once equals resampling by a loop, and shares of repeated patients are not made too sure."""

from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn import metrics as sk

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import Ranking, percentile, resample, resampled_counts, weights
from mlx_medlora.evaluation.intervals import wilson, wilson_effective
from mlx_medlora.evaluation.measures import SHARES, _of_counts, scores
from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.evaluation.shares import AS_PATIENTS, BY_PATIENT, WILSON, WORTH, share_interval
from mlx_medlora.evaluation.tally import Tally

Make = Callable[..., list[Prediction]]
ACCURACY = SHARES["accuracy"]


def drawn_by_hand(tally: Tally, resamples: int, seed: int) -> list[np.ndarray]:
    """The rows of each resample, patients drawn one after the other as `weights` draws them."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(tally.patient == patient) for patient in range(tally.patients)]
    return [
        np.concatenate([rows[patient] for patient in rng.integers(0, tally.patients, tally.patients)])
        for _ in range(resamples)
    ]


@pytest.mark.parametrize("patients", [12, 40])
def test_all_at_once_equals_one_by_one(patients: int, random_cases: Make) -> None:
    tally = Tally.of(random_cases(80, 5, patients))
    assert tally.p is not None
    counts = resampled_counts(tally, 50, 9)
    areas = resample(tally, Ranking(tally.error, tally.p, tally.patient), 50, 9)
    at_once = _of_counts(counts)
    for row, picked in enumerate(drawn_by_hand(tally, 50, 9)):
        error, said, p = tally.error[picked], tally.said[picked], tally.p[picked]
        assert counts[row].tolist() == np.bincount(tally.cell[picked], minlength=6).tolist()
        assert areas[row, 0] == pytest.approx(sk.roc_auc_score(error, p), abs=1e-12)
        assert areas[row, 1] == pytest.approx(sk.average_precision_score(error, p), abs=1e-12)
        truth = np.where(error, 0, 1)
        verdict = np.where(said == 2, 1 - truth, said)
        assert at_once["f1"][row] == pytest.approx(sk.f1_score(error, said == 0), abs=1e-12)
        assert at_once["mcc"][row] == pytest.approx(sk.matthews_corrcoef(truth, verdict), abs=1e-12)
        recalls = sk.recall_score(truth, said, labels=[0, 1], average="macro")
        assert at_once["balanced_accuracy"][row] == pytest.approx(recalls, abs=1e-12)


def test_how_many_are_drawn_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(weights(30, 200, 4)))
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 100)
    pieces = list(weights(30, 200, 4))
    assert len(pieces) > 60
    assert np.array_equal(np.concatenate(pieces), whole)
    assert (whole.sum(axis=1) == 30).all()


def test_untied_and_tied_probabilities_go_the_same_way() -> None:
    rng = np.random.default_rng(1)
    error, p, patient = rng.random(50) < 0.5, rng.random(50), np.arange(50)
    drawn = np.concatenate(list(weights(50, 20)))
    untied = Ranking(error, p, patient)(drawn)
    twice = Ranking(np.r_[error, error], np.r_[p, p], np.r_[patient, patient])(drawn)  # each value twice
    assert twice == pytest.approx(untied, abs=1e-12)


def test_a_class_that_was_not_drawn_leaves_no_area() -> None:
    found = Ranking(np.array([True, False]), np.array([0.9, 0.1]), np.arange(2))(np.array([[2.0, 0], [0, 2]]))
    assert np.isnan(found).all()


def test_percentiles_are_those_of_scipy(random_cases: Make) -> None:
    """scipy draws its own resamples, so that the two agree only to the noise of 10,000."""
    tally = Tally.of(random_cases(120, 2))
    right = (tally.said == np.where(tally.error, 0, 1)).astype(float)
    theirs = stats.bootstrap(
        (right,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    top, bottom = ACCURACY
    drawn = resampled_counts(tally, 10_000)
    ours, reason = percentile(drawn[:, top].sum(axis=1) / drawn[:, bottom].sum(axis=1))
    assert reason is None
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_what_cannot_be_told_says_why() -> None:
    assert percentile(np.full(100, 0.5)) == (None, bootstrap.FIXED)
    assert percentile(np.r_[np.full(10, np.nan), np.linspace(0, 1, 90)]) == (None, bootstrap.UNDEFINED)
    assert percentile(np.full(100, np.nan)) == (None, bootstrap.UNDEFINED)


def interval(cases: list[Prediction]) -> tuple[object, str | None]:
    tally = Tally.of(cases)
    return share_interval(tally, *ACCURACY, resampled_counts(tally))


def of_patients(cases: list[Prediction], each: int) -> list[Prediction]:
    return [c.model_copy(update={"patient_id": f"p{row // each}"}) for row, c in enumerate(cases)]


def test_one_case_a_patient_is_wilson_s(table: Make) -> None:
    cases = table([("ERROR", "ERROR", 30), ("ERROR", "CORRECT", 10)])
    for these in (cases, of_patients(cases, 1)):
        assert interval(these) == (wilson(30, 40), WILSON)


def test_cases_of_one_patient_that_agree_are_worth_one(table: Make) -> None:
    """Forty patients of five cases each, always alike: 200 cases say no more than 40 do."""
    found, method = interval(of_patients(table([("ERROR", "ERROR", 150), ("ERROR", "CORRECT", 50)]), 5))
    plain, worth = wilson(150, 200), wilson(30, 40)
    assert method == BY_PATIENT
    assert isinstance(found, tuple)
    assert plain is not None
    assert worth is not None
    assert found[1] - found[0] > 1.8 * (plain[1] - plain[0])
    assert found == pytest.approx(worth, abs=0.03)


def test_the_width_is_that_of_a_cluster_robust_variance(random_cases: Make) -> None:
    """statsmodels' mean with errors clustered by patient: another way to the same spread."""
    cases = random_cases(900, 6, patients=300)
    tally = Tally.of(cases)
    fit = sm.OLS(np.array([p.correct for p in cases], float), np.ones(900)).fit(
        cov_type="cluster", cov_kwds={"groups": tally.patient}
    )
    top, bottom = ACCURACY
    drawn = resampled_counts(tally, 4000)
    found, _ = percentile(drawn[:, top].sum(axis=1) / drawn[:, bottom].sum(axis=1))
    assert found == pytest.approx(fit.conf_int()[0], abs=0.004)


def test_it_is_never_surer_than_wilson(table: Make) -> None:
    """Each patient half right: resampling patients alone would give no width at all."""
    rows = [row for _ in range(30) for row in (("ERROR", "ERROR", 1), ("ERROR", "CORRECT", 1))]
    found, method = interval(of_patients(table(rows), 2))
    assert (found, method) == (wilson(30, 60), BY_PATIENT)


def test_patients_who_differ_less_than_chance_do_not_narrow_it(table: Make) -> None:
    """Twenty-nine patients half right and one all right: resampling alone would be far too sure."""
    rows = [row for _ in range(29) for row in (("ERROR", "ERROR", 1), ("ERROR", "CORRECT", 1))]
    cases = of_patients(table([*rows, ("ERROR", "ERROR", 2)]), 2)
    plain = wilson(31, 60)
    assert plain is not None
    drawn, _ = percentile(resampled_counts(Tally.of(cases))[:, 0] / 60)
    assert drawn is not None
    assert drawn[1] - drawn[0] < 0.3 * (plain[1] - plain[0])
    assert interval(cases) == (plain, BY_PATIENT)


def test_balanced_accuracy_is_no_surer_than_resampled_patients(table: Make) -> None:
    """Each patient has an error and a valid treatment, both right or both wrong."""
    right = [("ERROR", "ERROR", 1), ("CORRECT", "CORRECT", 1)]
    wrong = [("ERROR", "CORRECT", 1), ("CORRECT", "ERROR", 1)]
    together = scores(Tally.of(of_patients(table(right * 30 + wrong * 20), 2))).measures["balanced_accuracy"]
    apart = scores(Tally.of(table(right * 30 + wrong * 20))).measures["balanced_accuracy"]
    assert together.value == apart.value == 0.6
    assert together.interval is not None
    assert apart.interval is not None
    width = [one[1] - one[0] for one in (together.interval, apart.interval)]
    assert width[0] > 1.3 * width[1]


@pytest.mark.parametrize(("right", "wrong", "each"), [(100, 0, 50), (60, 0, 2), (30, 10, 4)])
def test_few_patients_or_no_mistakes_count_patients(right: int, wrong: int, each: int, table: Make) -> None:
    cases = of_patients(table([("ERROR", "ERROR", right), ("ERROR", "CORRECT", wrong)]), each)
    patients = (right + wrong) // each
    found = interval(cases)
    assert found == (wilson_effective(right / (right + wrong), patients), AS_PATIENTS)


def test_few_unequal_patients_are_worth_less(table: Make) -> None:
    """Nineteen patients, one of whom has 200 of 218 cases: worth hardly more than one (Kish)."""
    cases = table([("ERROR", "ERROR", 209), ("ERROR", "CORRECT", 9)])
    cases = [c.model_copy(update={"patient_id": f"p{max(0, row - 199)}"}) for row, c in enumerate(cases)]
    found, method = interval(cases)
    assert method == WORTH
    assert found == pytest.approx(wilson_effective(209 / 218, 218**2 / (200**2 + 18)))


@pytest.mark.parametrize(("units", "tail"), [(10, 0.0086), (20, 0.0159), (40, 0.0203), (100, 0.0231)])
def test_percentiles_of_few_are_expanded(units: int, tail: float) -> None:
    """What the paper gives for 0.025 (Hesterberg 2015)."""
    assert (1 - bootstrap.expanded(0.95, units)) / 2 == pytest.approx(tail, abs=6e-5)
    values = np.linspace(0, 1, 100_001)
    assert percentile(values, units=units)[0] == pytest.approx((tail, 1 - tail), abs=7e-5)
    assert percentile(values)[0] == pytest.approx((0.025, 0.975), abs=1e-5)


def test_the_studentized_interval_by_a_loop() -> None:
    rng = np.random.default_rng(2)
    sizes, each = rng.integers(5, 30, 25).astype(float), np.exp(rng.normal(0, 1, 25))
    sums = each * sizes

    def ratio(rows: np.ndarray) -> tuple[float, float]:
        x, t = sums[rows], sizes[rows]
        value = x.sum() / t.sum()
        return value, float(np.sqrt(25 / 24 * ((x - value * t) ** 2).sum()) / t.sum())

    value, error = ratio(np.arange(25))
    again = np.random.default_rng(bootstrap.SEED)
    drawn = [ratio(again.integers(0, 25, 25)) for _ in range(bootstrap.RESAMPLES)]
    low, high = np.quantile([(one - value) / spread for one, spread in drawn], [0.025, 0.975])
    found, reason = bootstrap.studentized(sums, sizes)
    assert reason is None
    assert found == pytest.approx((value - high * error, value - low * error), rel=1e-9)
    assert bootstrap.studentized(2 * sizes, sizes) == (None, bootstrap.FIXED)


def test_a_skewed_mean_is_held_more_often_than_by_percentiles() -> None:
    """300 sets of 40 log-normal values: the long tail is on one side."""
    rng = np.random.default_rng(4)
    sizes, truth = np.ones(40), float(np.exp(0.72))
    drawn = np.concatenate(list(weights(40)))
    held = np.zeros(2)
    for _ in range(300):
        sums = np.exp(rng.normal(0, 1.2, 40))
        for column, found in enumerate(
            (percentile(drawn @ sums / 40)[0], bootstrap.studentized(sums, sizes)[0])
        ):
            assert found is not None
            held[column] += found[0] <= truth <= found[1]
    assert held[1] / 300 > held[0] / 300 + 0.03  # 86 and 91 % in longer runs


def test_intervals_by_patient_hold_the_truth_as_often_as_they_say() -> None:
    """400 sets of 60 patients with 3 cases each; a patient's own rate varies around 0.8."""
    rng = np.random.default_rng(8)
    held, held_plain = 0, 0
    for _ in range(400):
        rates = rng.beta(0.8 * 3, 0.2 * 3, 60)
        right = rng.random((60, 3)) < rates[:, None]
        said = np.where(right, 0, 1).reshape(-1)
        tally = Tally(np.ones(180, bool), said, None, np.repeat(np.arange(60), 3))
        found, _ = share_interval(tally, *ACCURACY, resampled_counts(tally, 400))
        plain = wilson(int(right.sum()), 180)
        assert found is not None
        assert plain is not None
        held += found[0] <= 0.8 <= found[1]
        held_plain += plain[0] <= 0.8 <= plain[1]
    assert held / 400 >= 0.92
    assert held_plain / 400 < 0.92  # what taking the cases as independent would give
