import json

import pytest

from mlx_medlora.evaluation.metrics import Outcome, Scorecard, score


def outcomes(table: list[tuple[str, str | None, int]], modality: str = "xray") -> list[Outcome]:
    """(label, predicted, how many) rows as outcomes."""
    return [Outcome(label, said, modality) for label, said, count in table for _ in range(count)]


def test_a_hand_worked_table() -> None:
    # 10 valid treatments: 6 found valid, 3 flagged, 1 unreadable. 5 errors: 4 found, 1 missed.
    card = score(
        outcomes(
            [
                ("CORRECT", "CORRECT", 6),
                ("CORRECT", "ERROR", 3),
                ("CORRECT", None, 1),
                ("ERROR", "ERROR", 4),
                ("ERROR", "CORRECT", 1),
            ]
        )
    )
    assert (card.n, card.correct, card.invalid) == (15, 10, 1)
    assert card.accuracy == pytest.approx(10 / 15)
    assert card.invalid_rate == pytest.approx(1 / 15)
    assert (card.tpr.count, card.tpr.n, card.tpr.value) == (6, 10, pytest.approx(0.6))
    assert (card.tnr.count, card.tnr.n, card.tnr.value) == (4, 5, pytest.approx(0.8))
    assert (card.fpr.count, card.fpr.n, card.fpr.value) == (3, 10, pytest.approx(0.3))
    assert card.accuracy_interval == pytest.approx((0.4171, 0.8482), abs=6e-5)
    assert card.fpr.interval == pytest.approx((0.1078, 0.6032), abs=6e-5)


def test_an_unreadable_answer_is_wrong_but_no_false_alarm() -> None:
    card = score(outcomes([("CORRECT", None, 2), ("ERROR", None, 1)]))
    assert card.accuracy == 0.0
    assert (card.tpr.value, card.tnr.value, card.fpr.value) == (0.0, 0.0, 0.0)
    assert (card.invalid, card.invalid_rate) == (3, 1.0)


def test_one_class_alone_leaves_the_other_rates_unsaid() -> None:
    card = score(outcomes([("ERROR", "ERROR", 3), ("ERROR", "CORRECT", 1)]))
    assert card.accuracy == card.tnr.value == 0.75
    for rate in (card.tpr, card.fpr):
        assert (rate.value, rate.interval, rate.n) == (None, None, 0)


def test_no_cases_are_none_not_nan() -> None:
    card = score([])
    assert (card.n, card.accuracy, card.accuracy_interval, card.invalid_rate) == (0, None, None, None)
    assert card.by_modality == {}
    json.dumps(card.model_dump(mode="json"), allow_nan=False)


def test_each_modality_is_counted_on_its_own() -> None:
    mixed = outcomes([("ERROR", "ERROR", 2)], "xray") + outcomes([("CORRECT", "ERROR", 1)], "mri")
    card = score(mixed)
    assert list(card.by_modality) == ["mri", "xray"]
    assert card.by_modality["xray"].accuracy == 1.0
    assert card.by_modality["mri"].accuracy == 0.0
    assert card.by_modality["mri"].fpr.value == 1.0
    assert sum(group.n for group in card.by_modality.values()) == card.n == 3


def test_the_rates_say_what_they_mean() -> None:
    # The dataset card's names are the reverse of what many readers expect: the sentence decides.
    card = score(outcomes([("ERROR", "ERROR", 1)]))
    assert "valid treatments that were found valid" in card.tpr.meaning
    assert "error was found" in card.tnr.meaning
    assert "valid treatments that were flagged as errors" in card.fpr.meaning
    assert "not a medical device" in card.notice
    assert "Small samples" in card.notice


def test_a_scorecard_survives_its_own_json() -> None:
    card = score(outcomes([("ERROR", "ERROR", 2), ("CORRECT", None, 1)]))
    assert Scorecard.model_validate_json(card.model_dump_json()) == card
