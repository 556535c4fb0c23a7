import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_medlora.errors import GateNotMet, InputError
from mlx_medlora.evaluation.gate import CARD, Gate, card_gates, judge, read_gates, require, target_of, title
from mlx_medlora.evaluation.metrics import FIELDS, score
from mlx_medlora.evaluation.results import Prediction, Scorecard
from mlx_medlora.evaluation.tables import gates_table

Make = Callable[..., list[Prediction]]


def card_of(table: Make, right: int, wrong: int) -> Scorecard:
    """A scorecard of `right` + `wrong` cases of either class, in the modality xray."""
    rows = [("ERROR", "ERROR", right), ("ERROR", "CORRECT", wrong)]
    return score(table([*rows, ("CORRECT", "CORRECT", right), ("CORRECT", "ERROR", wrong)]))


def test_the_card_s_gates() -> None:
    assert [(gate.measure, gate.rule, gate.each) for gate in card_gates()] == [
        ("accuracy", "at least 90 %", None),
        ("accuracy", "at least 85 %", "modality"),
        ("tpr", "at least 95 %", None),
        ("tnr", "at least 95 %", None),
        ("fpr", "under 5 %", None),
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "verdict"),
    [(400, 0, "pass"), (20, 0, "undecided"), (386, 14, "undecided"), (100, 100, "fail"), (370, 30, "fail")],
)
def test_the_interval_decides(right: int, wrong: int, verdict: str, table: Make) -> None:
    report = judge(card_gates(), card_of(table, right, wrong))
    assert (report.verdict, report.source) == (verdict, CARD)
    if verdict == "pass":
        require(report)
        return
    with pytest.raises(GateNotMet) as error:
        require(report)
    assert error.value.exit_code == 3


def test_each_verdict_by_hand(table: Make) -> None:
    card = card_of(table, 19, 1)  # rates of 95 % (76.4-99.1) on 20, accuracy 95 % (83.5-98.6) on 40
    gates = [
        Gate(measure="accuracy", at_least=0.8),
        Gate(measure="accuracy", at_least=0.9),
        Gate(measure="accuracy", at_least=0.99),
        Gate(measure="fpr", under=0.25),
        Gate(measure="fpr", under=0.05),
        Gate(measure="fpr", under=0.005),
    ]
    results = judge(gates, card).gates
    assert [one.verdict for one in results] == ["pass", "undecided", "fail", "pass", "undecided", "fail"]
    assert results[1].needed is not None
    assert results[0].needed is results[4].needed is None  # 5 % is 5 %: no number of cases would
    assert title(results[1]) == "accuracy at least 90 %"
    assert (results[3].value, results[3].n, results[3].interval) == (0.05, 20, card.fpr.interval)


def test_bounds_that_touch_the_limit(table: Make) -> None:
    """`at least` takes the limit itself, `under` does not."""
    card = card_of(table, 19, 1)
    edges = {"accuracy": (0.9, 0.95), "false_flag_rate": (0.01, 0.05)}
    for name, interval in edges.items():
        card.measures[name] = card.measures[name].model_copy(update={"interval": interval})
    gates = [
        Gate(measure="accuracy", at_least=0.9),
        Gate(measure="accuracy", at_least=0.95),
        Gate(measure="fpr", under=0.05),
        Gate(measure="fpr", under=0.01),
    ]
    assert [one.verdict for one in judge(gates, card).gates] == ["pass", "undecided", "undecided", "fail"]


def test_what_was_not_measured_is_undecided(table: Make) -> None:
    card = score(table([("ERROR", "ERROR", 500)]))
    results = judge([Gate(measure=name, at_least=0.5) for name in ("tnr", "tpr", "auroc")], card).gates
    assert [one.verdict for one in results] == ["pass", "undecided", "undecided"]
    assert results[1].reason == "no valid treatments among the cases"
    assert judge(card_gates(), score([])).verdict == "undecided"


def test_a_figure_that_is_no_share_is_shown_as_none(table: Make) -> None:
    cases = [("ERROR", "ERROR", 30), ("ERROR", "CORRECT", 10), ("CORRECT", "CORRECT", 40)]
    report = judge([Gate(measure="mcc", at_least=0.5), Gate(measure="fpr", under=0.5)], score(table(cases)))
    assert [title(one) for one in report.gates] == ["mcc at least 0.5", "fpr under 50 %"]
    shown = list(gates_table(report).columns[2].cells)
    assert re.fullmatch(r"0\.775 \(0\.\d{3} to 0\.\d{3}\), n = 80", str(shown[0]))  # sqrt(3/5)
    assert str(shown[1]).startswith("0.0 % (0.0-")


def test_each_and_only(table: Make) -> None:
    grave = table([("ERROR", "ERROR", 200)], severity="critical")
    card = score(grave + table([("ERROR", "CORRECT", 30), ("CORRECT", "CORRECT", 5)], modality="mri"))
    each = judge([Gate(measure="sensitivity", at_least=0.9, each="severity")], card).gates
    assert {one.group["severity"]: one.verdict for one in each if one.group} == {
        "critical": "pass",
        "high": "fail",
    }  # valid treatments have the severity none, among which there is no error to find
    both = judge([Gate(measure="fpr", under=0.5, each="modality")], card).gates
    assert [(one.group, one.verdict) for one in both] == [
        ({"modality": "mri"}, "pass"),
        ({"modality": "xray"}, "undecided"),  # a modality without valid treatments is not passed over
    ]
    only = judge([Gate(measure="tnr", at_least=0.9, only={"severity": "critical"})], card).gates
    assert [(title(one), one.verdict) for one in only] == [("tnr at least 90 % (severity critical)", "pass")]
    absent = judge([Gate(measure="tnr", at_least=0.9, only={"severity": "extreme"})], card).gates[0]
    assert absent.verdict == "undecided"
    assert absent.reason == "no case has severity 'extreme', only critical, high, none"


def test_unreadable_answers_pass_no_gate(table: Make) -> None:
    """No flag among 200 valid treatments, but no verdict either in 30 of them."""
    rows = [("CORRECT", "CORRECT", 170), ("CORRECT", None, 30), ("ERROR", "ERROR", 200)]
    gates = [Gate(measure=name, under=0.05) for name in ("fpr", "false_flag_rate")]
    gates += [Gate(measure="ppv", at_least=0.95), Gate(measure="accuracy", at_least=0.85)]
    results = judge(gates, score(table(rows))).gates
    assert [one.verdict for one in results] == ["undecided", "undecided", "undecided", "pass"]
    assert results[0].reason == "it is met only if 30 unreadable answers do not count against it"
    assert (results[0].value, results[0].needed) == (0.0, None)  # the figure stays; more cases do not help
    none = score(table([("CORRECT", None, 200)]))
    assert judge(gates[:1], none).verdict == "undecided"
    few = [("CORRECT", "CORRECT", 399), ("CORRECT", None, 1), ("ERROR", "ERROR", 9)]
    assert judge(gates[:1], score(table(few))).verdict == "pass"  # met with it counted as a flag, too


def test_all_right_meets_a_gate_at_everything_or_leaves_it_open(table: Make) -> None:
    for patients in (10, 11, 13):
        cases = table([("ERROR", "ERROR", 2 * patients)])
        cases = [c.model_copy(update={"patient_id": f"p{row // 2}"}) for row, c in enumerate(cases)]
        assert judge([Gate(measure="accuracy", at_least=1)], score(cases)).verdict == "undecided"


def test_what_is_needed_is_more_than_there_is(table: Make) -> None:
    """Two of forty patients nearly all wrong: their cases are worth fewer, and more of them are needed."""
    cases = table([("ERROR", "CORRECT", 10), ("ERROR", "ERROR", 230)])
    cases = [c.model_copy(update={"patient_id": f"p{row // 6}"}) for row, c in enumerate(cases)]
    card = score(cases)
    found = judge([Gate(measure="accuracy", at_least=0.9)], card).gates[0]
    assert found.verdict == "undecided"
    assert found.needed is not None
    assert found.needed > 400
    assert card.sample_size is not None
    assert card.sample_size.for_target == found.needed
    assert card.sample_size.design_effect > 2
    assert f"about {found.needed} such cases (80 % power)" in card.sample_size.sentence
    assert card.sample_size.sentence.startswith("240 cases of 40 patients do not show 90 %")


def test_the_weighted_miss_rate_has_a_gate(table: Make) -> None:
    report = judge([Gate(measure="weighted_miss_rate", under=0.05)], card_of(table, 300, 0))
    assert report.verdict == "pass"


def test_the_least_verdict_is_the_whole_s(table: Make) -> None:
    card = card_of(table, 19, 1)
    gates = {
        one: Gate(measure="accuracy", at_least=limit) for one, limit in (("p", 0.5), ("u", 0.9), ("f", 1))
    }
    for names, verdict in (("p", "pass"), ("pu", "undecided"), ("puf", "fail")):
        assert judge([gates[name] for name in names], card).verdict == verdict


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(
        "gates:\n"
        "  - {measure: accuracy, at_least: 0.97}\n"
        "  - {measure: sensitivity, at_least: 0.99, only: {severity: critical}}\n"
        "  - {measure: fpr, under: 0.1, each: site}\n"
    )
    gates = read_gates(path, (*FIELDS, "site"))
    assert [gate.rule for gate in gates] == ["at least 97 %", "at least 99 %", "under 10 %"]
    assert target_of(gates) == 0.97
    with pytest.raises(InputError, match="'site', by which cases are not grouped") as error:
        read_gates(path, FIELDS)
    assert error.value.hint == "Add --by site."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gates: []", "at least 1"),
        ("gates:\n  - {measure: accuracy}", "one of at_least and under"),
        ("gates:\n  - {measure: accuracy, at_least: 0.9, under: 0.95}", "one of at_least and under"),
        ("gates:\n  - {measure: acuracy, at_least: 0.9}", "no such measure"),
        ("gates:\n  - {measure: accuracy, at_least: 90}", "less than or equal to 1"),
        ("gates:\n  - {measure: accuracy, at_least: 0.9, each: a, only: {a: b}}", "each or only"),
        ("gates:\n  - {measure: weighted_miss_rate, under: 0.9, each: modality}", "of all cases"),
        ("gates:\n  - {measure: accuracy, atleast: 0.9}", "unknown option 'gates.0.atleast'"),
        ("gate: 1", "unknown option 'gate'"),
        ("- 1", "mapping"),
    ],
)
def test_a_faulty_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text(text + "\n")
    with pytest.raises(InputError, match=said) as error:
        read_gates(path, FIELDS)
    assert "gates.yaml" in str(error.value)


def test_without_an_accuracy_gate_the_card_s_target_stands() -> None:
    assert target_of([Gate(measure="tnr", at_least=0.5)]) == 0.9


def test_a_gate_on_groups_that_none_of_them_can_answer_is_undecided(table: Make) -> None:
    card = score(table([("CORRECT", "CORRECT", 30)]))
    demanded = [Gate(measure="sensitivity", at_least=0.9, each="severity")]
    report = judge(demanded, card)
    assert [(one.verdict, one.group, one.reason) for one in report.gates] == [
        ("undecided", None, "no wrong treatments among the cases")
    ]
    both = judge([Gate(measure="accuracy", at_least=0.5), *demanded], card)
    assert both.verdict == "undecided"  # a demand is not met by having nothing to meet it on


def test_yes_is_no_limit(tmp_path: Path) -> None:
    path = tmp_path / "gates.yaml"
    path.write_text("gates:\n  - {measure: accuracy, at_least: yes}\n")
    with pytest.raises(InputError, match="at_least"):
        read_gates(path, FIELDS)
    path.write_text("gates:\n  - {measure: mcc, at_least: 0}\n")
    assert read_gates(path, FIELDS)[0].at_least == 0
