"""The rules of run health, each on curves that are worked by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.curves import Curves, Point, read_curves
from mlx_medlora.evaluation.forgetting import summed
from mlx_medlora.evaluation.health import LEAST_CASES, health, overfits, underfits
from mlx_medlora.evaluation.remedies import remedies
from mlx_medlora.evaluation.results import Finding, Forgetting, Health, QuestionDrift

Rows = list[tuple[float | None, float | None]]


def curves(rows: Rows, base: float | None = 2.0, accuracy: float | None = None, **more: Any) -> Curves:
    """Epochs of (training loss, validation loss), on 40 cases with 400 tokens unless said otherwise."""
    points = [
        Point(epoch=number, train_loss=train, val_loss=val, val_accuracy=accuracy)
        for number, (train, val) in enumerate(rows, start=1)
    ]
    whole = {"base": Point(epoch=0, val_loss=base), "cases": 40, "tokens": 400} | more
    return Curves(tuple(points), **whole)


@pytest.mark.parametrize(
    ("rows", "found", "words"),
    [
        # lowest 0.40 in epoch 2, then 0.45: an eighth more, and training falls
        (
            [(1.0, 0.60), (0.5, 0.40), (0.3, 0.45)],
            True,
            r"rose from 0\.400 \(epoch 2\) to 0\.450 \(epoch 3\)",
        ),
        ([(1.0, 0.60), (0.5, 0.40), (0.3, 0.43)], False, "hardly rose"),  # 7.5 %
        ([(1.0, 0.60), (0.5, 0.40), (0.6, 0.50)], False, "hardly rose"),  # training rises too
        ([(0.2, 0.10), (0.1, 0.050), (0.09, 0.065)], False, "hardly rose"),  # 30 %, of 0.015 nats
        ([(1.0, 0.60), (0.5, 0.50), (0.4, 0.45)], False, "did not rise"),
        ([(1.0, 0.60), (0.3, 0.60), (0.3, 0.60)], True, r"2\.0 times the training loss, 0\.300"),
        ([(1.0, 0.60), (0.31, 0.60), (0.31, 0.60)], False, "did not rise"),
        ([(0.08, 0.17), (0.08, 0.17)], False, "did not rise"),  # twice, of 0.09 nats
        ([(0.2, 0.5)], True, r"2\.5 times"),  # one epoch is enough for that
        ([(0.4, 0.5)], None, "One epoch shows no trend"),
        ([(1.0, None), (0.5, None)], None, "no validation loss"),
    ],
)
def test_overfitting(rows: Rows, found: bool | None, words: str) -> None:
    finding = overfits(curves(rows))
    assert finding.found is found
    assert_words(finding, words)


@pytest.mark.parametrize(
    ("rows", "accuracy", "found", "words"),
    [
        ([(1.9, 1.90), (1.8, 1.85)], None, True, r"from 2\.000 to 1\.850 only"),  # 7.5 % of the base's
        ([(1.0, 1.00), (0.9, 0.85)], None, True, r"still falling at the end, from 1\.000 to 0\.850"),  # 15 %
        ([(1.0, 1.00), (0.9, 0.93)], None, False, "settled; the accuracy of its verdicts was not"),  # 7 %
        ([(0.2, 0.15), (0.2, 0.11)], None, False, "settled"),  # 27 %, of 0.04 nats
        ([(0.5, 0.40), (0.4, 0.40)], 0.50, True, r"50 % of verdicts right \(35-65 %\) is below .* 79 %"),
        ([(0.5, 0.40), (0.4, 0.40)], 0.80, None, "40 cases cannot tell"),  # 65-90 %
        ([(0.5, 0.40), (0.4, 0.40)], 0.95, False, r"with 95 % of verdicts right \(83-99 %\)"),
        ([(1.0, None)], None, None, "no validation loss"),
    ],
)
def test_underfitting(rows: Rows, accuracy: float | None, found: bool | None, words: str) -> None:
    finding = underfits(curves(rows, accuracy=accuracy))
    assert finding.found is found
    assert_words(finding, words)
    assert f"{LEAST_CASES} are the least" not in finding.advice  # these are more


def assert_words(finding: Finding, words: str) -> None:
    assert re.search(words, finding.sentence), finding.sentence
    assert (finding.advice == "") == (finding.found is False)


def test_poor_validation_of_an_overfitted_run_is_no_underfitting() -> None:
    found = curves([(1.0, 0.60), (0.5, 0.40), (0.1, 0.90)], accuracy=0.5)
    assert [finding.found for finding in health(found).findings] == [True, False, None]


@pytest.mark.parametrize(("cases", "tokens"), [(8, 400), (19, 400), (40, 99), (None, None)])
def test_few_validation_cases_tell_nothing(cases: int | None, tokens: int | None) -> None:
    findings = health(curves([(1.0, 0.4), (0.1, 0.9)], accuracy=0.1, cases=cases, tokens=tokens)).findings
    assert [finding.found for finding in findings] == [None, None, None]
    kept = health(curves([(1.0, 0.4), (0.1, 0.9)], cases=20, tokens=100)).findings
    assert kept[0].found is True


def test_with_replay_the_training_loss_is_of_other_rows_too() -> None:
    rows: Rows = [(0.2, 0.5), (0.2, 0.5)]
    assert overfits(curves(rows)).found is True
    assert overfits(curves(rows, replayed=True)).found is False


def drift(*rows: tuple[int, float, float], base: float = 2.0) -> Forgetting:
    """Of (tokens, kl, change of loss) a question."""
    made = [
        QuestionDrift(line=line, tokens=tokens, kl=kl, loss_base=base, loss_tuned=base + change)
        for line, (tokens, kl, change) in enumerate(rows, start=2)
    ]
    return summed(made, "0" * 64, vocabulary=1000)


def test_the_mean_is_over_tokens() -> None:
    found = drift((10, 0.3, 1.0), (30, 0.1, 0.0))
    assert found.kl.value == pytest.approx((10 * 0.3 + 30 * 0.1) / 40)
    assert found.loss_change.value == pytest.approx(0.25)
    assert (found.n, found.tokens, found.loss_base) == (2, 40, 2.0)
    assert found.kl.interval is None  # two questions
    assert found.kl.reason == "fewer than 20 questions to resample"
    assert found.loss_uniform == pytest.approx(6.9078, abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "found", "words"),
    [
        (0.2, 0.4, True, "more than 0.1"),
        (0.01, 0.05, False, "less than 0.1"),
        (0.02, 0.2, None, "whether that is more than 0.1 cannot be told"),
    ],
)
def test_forgetting_by_the_interval_of_kl(low: float, high: float, found: bool | None, words: str) -> None:
    measured = drift(*[(10, low, 0.1)] * 12, *[(10, high, 0.1)] * 12)
    finding = health(curves([(0.5, 0.4), (0.4, 0.4)]), measured).findings[2]
    assert finding.kind == "forgetting"
    assert finding.found is found
    assert words in finding.sentence
    assert "0.10 nats a token less likely" in finding.sentence
    assert ("--replay FILE" in finding.advice) is (found is True)


def test_an_adapter_that_changes_nothing_forgets_nothing() -> None:
    finding = health(None, drift(*[(10, 0.0, 0.0)] * 24)).findings[2]
    assert finding.found is False


def test_what_the_base_does_not_know_it_cannot_forget() -> None:
    measured = drift(*[(10, 3.0 + number / 10, 0.1) for number in range(24)], base=7.5)
    finding = health(None, measured).findings[2]
    assert finding.found is None
    assert "does not know the 24 general answers (7.5 nats a token, guessing 6.9)" in finding.sentence


def test_the_task_itself_done_worse_than_by_the_base_is_forgetting() -> None:
    """36 of 40 before (77-96 %), 20 of 40 after (35-65 %); 32 of 40 (65-90 %) might be chance."""
    base = Point(epoch=0, val_loss=2.0, val_accuracy=0.9)
    fewer = Curves((Point(epoch=1, train_loss=0.5, val_loss=0.4, val_accuracy=0.5),), base, 40, 400)
    worse = health(fewer).findings[2]
    assert worse.found is True
    assert "50 % of verdicts are right (35-65 %), the base had 90 % (77-96 %)" in worse.sentence
    perhaps = Curves((Point(epoch=1, train_loss=0.5, val_loss=0.4, val_accuracy=0.8),), base, 40, 400)
    assert health(perhaps).findings[2].found is None


def test_advice_leaves_out_what_the_run_had() -> None:
    card = remedies("overfitting", {})
    assert card == (
        "Raise --dropout from 0.1 to 0.2, stop early with --patience 1, lower --lr from 0.0002 to 1e-4, "
        "or train on more cases."
    )
    had = {"dropout": 0.2, "patience": 1, "lr": 1e-4}
    assert remedies("overfitting", had) == "Train on more cases."
    assert "raise --rank from 16 to 32" in remedies("underfitting", {}).replace("Raise", "raise")
    assert "--rank" not in remedies("underfitting", {"rank": 64})
    assert remedies("forgetting", {"lr": 1e-4, "replay": "g.jsonl", "epochs": 1}) == "Raise --replay-share."


def write_run(directory: Path, rows: list[dict[str, Any]], record: dict[str, Any] | None) -> Path:
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if record is not None:
        (directory / "run.json").write_text(json.dumps(record))
    return directory


def test_curves_are_read_from_the_adapter_directory(tmp_path: Path) -> None:
    rows = [
        {
            "event": "epoch",
            "epoch": 0,
            "train_loss": None,
            "val_loss": 2.0,
            "val_accuracy": 0.5,
            "best": False,
        },
        {"event": "step", "step": 1, "epoch": 1, "loss": 1.5, "rows": 4, "replay_rows": 1},
        {
            "event": "epoch",
            "epoch": 1,
            "train_loss": 1.5,
            "val_loss": 1.0,
            "val_accuracy": 0.75,
            "val_accuracy_interval": [0.5, 0.9],
            "best": True,
        },
    ]
    record = {"data": {"val": {"rows": 30, "supervised_tokens": 300}}, "settings": {"lr": 1e-3}}
    found = read_curves(write_run(tmp_path / "a", rows, record))
    assert found is not None
    assert found == Curves(
        (Point(epoch=1, train_loss=1.5, val_loss=1.0, val_accuracy=0.75, val_accuracy_interval=(0.5, 0.9)),),
        Point(epoch=0, val_loss=2.0, val_accuracy=0.5),
        30,
        300,
        replayed=True,
        settings={"lr": 1e-3},
    )
    for number, wrong in enumerate(([0.9, 0.5], [-5, 7], [0.5], "ab")):
        damaged = [rows[0], rows[2] | {"val_accuracy_interval": wrong}]
        with pytest.raises(InputError, match=r"metrics.jsonl:2: val_accuracy_interval"):
            read_curves(write_run(tmp_path / f"damaged-{number}", damaged, record))
    alone = read_curves(write_run(tmp_path / "b", rows, None))
    assert alone is not None
    assert alone.cases is None
    assert read_curves(tmp_path) is None


def test_damaged_curves_are_named_with_their_line(tmp_path: Path) -> None:
    rows = [{"event": "step", "step": 1}, {"event": "epoch", "epoch": 1, "val_loss": "low"}]
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: val_loss"):
        read_curves(write_run(tmp_path / "a", rows, None))


def test_an_adapter_without_curves_has_findings_of_each_kind() -> None:
    found = health(None)
    assert [finding.kind for finding in found.findings] == ["overfitting", "underfitting", "forgetting"]
    assert all(finding.found is None for finding in found.findings)
    assert Health.model_validate_json(found.model_dump_json()) == found
    assert set(found.model_dump()) == {"findings"}
