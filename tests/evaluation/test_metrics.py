import json
from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as sk

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.intervals import wilson
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import Prediction, Scorecard

Make = Callable[..., list[Prediction]]

WORKED = [
    # 10 valid treatments: 6 found valid, 3 flagged, 1 unreadable. 5 errors: 4 found, 1 missed.
    ("CORRECT", "CORRECT", 6),
    ("CORRECT", "ERROR", 3),
    ("CORRECT", None, 1),
    ("ERROR", "ERROR", 4),
    ("ERROR", "CORRECT", 1),
]


def test_a_hand_worked_table(table: Make) -> None:
    card = score(table(WORKED))
    assert (card.n, card.correct, card.invalid, card.errors, card.valid) == (15, 10, 1, 5, 10)
    assert card.accuracy == pytest.approx(10 / 15)
    assert card.invalid_rate == pytest.approx(1 / 15)
    assert (card.tpr.count, card.tpr.n, card.tpr.value) == (6, 10, pytest.approx(0.6))
    assert (card.tnr.count, card.tnr.n, card.tnr.value) == (4, 5, pytest.approx(0.8))
    assert (card.fpr.count, card.fpr.n, card.fpr.value) == (3, 10, pytest.approx(0.3))
    assert card.accuracy_interval == pytest.approx((0.4171, 0.8482), abs=6e-5)
    assert card.fpr.interval == pytest.approx((0.1078, 0.6032), abs=6e-5)
    found = {name: one.value for name, one in card.measures.items()}
    assert found["ppv"] == pytest.approx(4 / 7)  # 4 of 7 flags were right
    assert found["npv"] == pytest.approx(6 / 7)
    assert found["balanced_accuracy"] == pytest.approx((0.8 + 0.6) / 2)
    assert found["f1"] == pytest.approx(8 / 12)  # 2 x 4 / (2 x 4 + 3 + 1)
    # the unreadable one counts as flagged: TP 4, FN 1, FP 4, TN 6
    assert found["mcc"] == pytest.approx((4 * 6 - 4 * 1) / np.sqrt(8 * 5 * 10 * 7))
    assert card.confusion.model_dump() == {
        "error_as_error": 4,
        "error_as_correct": 1,
        "error_unreadable": 0,
        "correct_as_error": 3,
        "correct_as_correct": 6,
        "correct_unreadable": 1,
    }


def test_areas_under_curves_by_hand(scored: Make) -> None:
    # Of 2 x 3 pairs: 0.9 beats all three; 0.4 beats 0.1, ties with 0.4, loses to 0.6: 4.5 of 6.
    card = score(
        scored([("ERROR", 0.9), ("ERROR", 0.4), ("CORRECT", 0.6), ("CORRECT", 0.4), ("CORRECT", 0.1)])
    )
    assert card.measures["auroc"].value == pytest.approx(4.5 / 6)
    # from above: 1 of 1 found (half the errors), then at 0.4 two of four flagged
    assert card.measures["auprc"].value == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)


@pytest.mark.parametrize("seed", range(6))
def test_values_against_scikit_learn(seed: int, random_cases: Make) -> None:
    cases = random_cases(150, seed)
    card = score(cases)
    truth = [p.label for p in cases]
    said = [p.predicted or "UNREADABLE" for p in cases]
    wrong = {"ERROR": "CORRECT", "CORRECT": "ERROR"}
    verdict = [p.predicted or wrong[p.label] for p in cases]
    error, p = np.array([one == "ERROR" for one in truth]), np.array([c.p_error for c in cases], float)
    expected = {
        "accuracy": sk.accuracy_score(truth, said),
        "sensitivity": sk.recall_score(truth, said, labels=["ERROR"], average="macro"),
        "specificity": sk.recall_score(truth, said, labels=["CORRECT"], average="macro"),
        "ppv": sk.precision_score(truth, said, labels=["ERROR"], average="macro"),
        "npv": sk.precision_score(truth, said, labels=["CORRECT"], average="macro"),
        "f1": sk.f1_score(truth, said, labels=["ERROR"], average="macro"),
        "mcc": sk.matthews_corrcoef(truth, verdict),
        "auroc": sk.roc_auc_score(error, p),
        "auprc": sk.average_precision_score(error, p),
        "invalid_rate": sum(one.predicted is None for one in cases) / len(cases),
    }
    found = {name: card.measures[name].value for name in expected}
    assert found == pytest.approx(expected, abs=1e-12)
    assert card.measures["balanced_accuracy"].value == pytest.approx(
        (expected["sensitivity"] + expected["specificity"]) / 2
    )
    for one in card.measures.values():
        assert one.value is not None
        assert one.interval is not None
        assert one.interval[0] <= one.value <= one.interval[1]


def test_f1_has_the_interval_of_a_share(table: Make) -> None:
    found = score(table(WORKED)).measures["f1"]  # 4 found of 5 errors and 3 false flags
    bounds = wilson(4, 8)
    assert bounds is not None
    assert found.interval == pytest.approx([2 * one / (1 + one) for one in bounds])
    strict = wilson(4, 9)  # with the unreadable one as a flag
    assert strict is not None
    assert (found.unreadable, found.strict_interval) == (1, pytest.approx([2 * s / (1 + s) for s in strict]))


def test_what_unreadable_answers_would_make_of_the_figures(table: Make) -> None:
    rows = [("CORRECT", "CORRECT", 6), ("CORRECT", "ERROR", 3), ("CORRECT", None, 1)]
    found = score(table([*rows, ("ERROR", "ERROR", 4), ("ERROR", None, 2)])).measures
    strict = {"false_flag_rate": (1, wilson(4, 10)), "ppv": (1, wilson(4, 8)), "npv": (2, wilson(6, 8))}
    assert {name: (found[name].unreadable, found[name].strict_interval) for name in strict} == strict
    assert (found["specificity"].unreadable, found["specificity"].strict_interval) == (0, None)
    assert found["false_flag_rate"].interval == wilson(3, 10)  # the figure stays the dataset card's


def test_perfect_answers_have_intervals(scored: Make) -> None:
    for n in (2, 9, 30):
        found = score(scored([("ERROR", 0.9), ("CORRECT", 0.1)] * n)).measures
        for name in ("accuracy", "f1", "mcc", "auroc", "auprc", "balanced_accuracy"):
            interval = found[name].interval
            assert interval is not None, name
            assert 0 < interval[0] < interval[1] == 1.0 == found[name].value, name


def test_an_unreadable_answer_is_wrong_but_no_false_alarm(table: Make) -> None:
    card = score(table([("CORRECT", None, 2), ("ERROR", None, 1)]))
    assert card.accuracy == 0.0
    assert (card.tpr.value, card.tnr.value, card.fpr.value) == (0.0, 0.0, 0.0)
    assert (card.invalid, card.invalid_rate) == (3, 1.0)
    assert card.measures["ppv"].reason == "no treatment was flagged"
    assert card.measures["mcc"].value is None  # there was no verdict to reverse


def test_one_class_alone_leaves_the_other_figures_unsaid(scored: Make) -> None:
    card = score(scored([("ERROR", 0.9), ("ERROR", 0.8), ("ERROR", 0.7), ("ERROR", 0.2)]))
    assert card.accuracy == card.tnr.value == 0.75
    for rate in (card.tpr, card.fpr):
        assert (rate.value, rate.interval, rate.n) == (None, None, 0)
        assert rate.reason == "no valid treatments among the cases"
    for name in ("balanced_accuracy", "ppv", "npv", "f1", "mcc", "auroc", "auprc"):
        assert card.measures[name].value is None
        assert card.measures[name].reason == "all cases have the same right answer"


def test_written_answers_have_no_curves(table: Make) -> None:
    card = score(table(WORKED))
    for name in ("auroc", "auprc"):
        assert card.measures[name].value is None
        assert "--method score" in str(card.measures[name].reason)
    assert card.calibration is None


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("ERROR", 0.9)],
        [("CORRECT", 0.9)],
        [("ERROR", 0.5), ("CORRECT", 0.5)],
        [("ERROR", 0.5)] * 30 + [("CORRECT", 0.5)] * 30,
        [("ERROR", 1.0)] * 30 + [("CORRECT", 0.0)] * 30,
        [("ERROR", 0.0)] * 30 + [("CORRECT", 1.0)] * 30,
        [("ERROR", 0.9)] + [("CORRECT", 0.1)] * 60,
    ],
)
@pytest.mark.parametrize("patients", [None, "one", "few", "many"])
def test_every_edge_has_a_value_or_a_reason(
    rows: list[tuple[str, float]], patients: str | None, scored: Make
) -> None:
    cases = scored(rows)
    size = {None: 0, "one": 1, "few": 3, "many": 25}[patients]
    if size:
        cases = [c.model_copy(update={"patient_id": f"p{number % size}"}) for number, c in enumerate(cases)]
    card = score(cases)
    json.dumps(card.model_dump(mode="json"), allow_nan=False)
    for group in (card, *(one for field in card.by.values() for one in field.values())):
        for one in group.measures.values():
            assert one.value is not None or one.reason, one.name
            assert one.interval is not None or one.reason, one.name
            assert (one.interval is None) == (one.interval_method is None), one.name
            if one.interval is not None and one.value is not None:
                assert one.interval[0] - 1e-12 <= one.value <= one.interval[1] + 1e-12, one.name


@pytest.mark.parametrize("seed", range(40))
def test_small_random_tables_never_break(seed: int, random_cases: Make) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 30))
    patients = None if seed % 2 else int(rng.integers(1, n + 1))
    card = score(random_cases(n, seed, patients, unreadable=float(rng.random())))
    json.dumps(card.model_dump(mode="json"), allow_nan=False)
    for one in card.measures.values():
        assert one.interval is not None or one.reason
        if one.interval is not None and one.value is not None:
            assert one.interval[0] - 1e-12 <= one.value <= one.interval[1] + 1e-12, one.name


def test_all_unreadable(table: Make) -> None:
    card = score(table([("CORRECT", None, 30), ("ERROR", None, 30)]))
    assert (card.accuracy, card.invalid) == (0.0, 60)
    for one in card.measures.values():
        assert one.value is not None or one.reason
    assert card.misses.rows[0].unreadable == 30
    assert card.measures["mcc"].value is None
    assert card.measures["mcc"].reason == "no answer could be read"


def test_no_cases_are_none_not_nan() -> None:
    card = score([])
    assert (card.n, card.accuracy, card.accuracy_interval, card.invalid_rate) == (0, None, None, None)
    assert card.by_modality == {}
    json.dumps(card.model_dump(mode="json"), allow_nan=False)


def test_each_group_is_counted_on_its_own(table: Make) -> None:
    site = {"site": "north", "dose": [1, 2]}
    mixed = table([("ERROR", "ERROR", 2)], metadata=site) + table(
        [("CORRECT", "ERROR", 1)], modality="mri", metadata={"urgent": True}
    )
    card = score(mixed, by=("site", "urgent", "dose"))
    assert list(card.by_modality) == ["mri", "xray"]
    assert card.by_modality["xray"].accuracy == 1.0
    assert card.by_modality["mri"].accuracy == 0.0
    assert card.by_modality["mri"].fpr.value == 1.0
    assert sum(group.n for group in card.by_modality.values()) == card.n == 3
    counted = {field: {name: group.n for name, group in of.items()} for field, of in card.by.items()}
    assert counted == {
        "modality": {"mri": 1, "xray": 2},
        "error_type": {"none": 1, "overtreatment": 2},
        "severity": {"high": 2, "none": 1},
        "site": {"north": 2, "not stated": 1},
        "urgent": {"yes": 1, "not stated": 2},
        "dose": {"1, 2": 2, "not stated": 1},
    }


def test_a_field_that_groups_nothing_is_refused(table: Make) -> None:
    cases = table([("ERROR", "ERROR", 2)], metadata={"site": "north"})
    with pytest.raises(InputError, match="no case has the metadata field 'sight'") as error:
        score(cases, by=("sight",))
    assert error.value.hint == "Their fields: site."
    many = [c.model_copy(update={"metadata": {"age": age}}) for age, c in enumerate(cases * 40)]
    with pytest.raises(InputError, match="'age' has 80 values"):
        score(many, by=("age",))


def test_the_rates_say_what_they_mean(table: Make) -> None:
    # The dataset card's names are the reverse of what many readers expect: the sentence decides.
    card = score(table([("ERROR", "ERROR", 1)]))
    assert "valid treatments that were found valid" in card.tpr.meaning
    assert "error was found" in card.tnr.meaning
    assert "valid treatments that were flagged as errors" in card.fpr.meaning
    assert card.measures["sensitivity"].card_name == "True Negative Rate (TNR)"
    assert card.measures["specificity"].card_name == "True Positive Rate (TPR)"
    assert "not a medical device" in card.notice
    assert "Small samples" in card.notice


def test_a_scorecard_survives_its_own_json(random_cases: Make) -> None:
    card = score(random_cases(60, 0, patients=30))
    assert Scorecard.model_validate_json(card.model_dump_json()) == card


def test_the_same_answers_give_the_same_card(random_cases: Make) -> None:
    cases = random_cases(80, 3, patients=40)
    assert score(cases) == score(cases)


def test_the_gravest_miss_stands_first(table: Make) -> None:
    low = table([("ERROR", "CORRECT", 3), ("ERROR", "ERROR", 1)], severity="low")
    grave = table([("ERROR", "CORRECT", 1), ("ERROR", None, 1), ("ERROR", "ERROR", 2)], severity="critical")
    found = score(low + grave + table([("CORRECT", "ERROR", 5)])).misses
    assert [row.severity for row in found.rows] == ["critical", "low"]
    assert (found.rows[0].missed, found.rows[0].unreadable, found.rows[0].errors) == (1, 1, 4)
    assert found.rows[0].rate.count == 2
    assert found.rows[0].ids == ["case_0", "case_1"]
    assert found.weighted.value == pytest.approx((2 * 8 + 3 * 1) / (4 * 8 + 4 * 1))
    assert found.weighted.interval is not None


def test_the_weighted_rate_is_resampled_as_a_whole(random_cases: Make) -> None:
    found = score(random_cases(300, 1, patients=100)).misses.weighted
    assert found.interval is not None
    assert found.value is not None
    assert found.interval[0] < found.value < found.interval[1]
    assert str(found.interval_method).startswith("bootstrap, at least Wilson")
    assert score([]).misses.weighted.reason == "no wrong treatments among the cases"
