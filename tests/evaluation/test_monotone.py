"""One more wrong answer never betters a bound, so that no gate is passed by answering worse."""

from __future__ import annotations

import numpy as np
import pytest
from predicted import prediction

from mlx_medlora.evaluation.gate import Gate, judge
from mlx_medlora.evaluation.intervals import mean_of_two, wilson_effective
from mlx_medlora.evaluation.matthews import matthews_interval
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import Measure, Prediction, Scorecard

RISING = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "mcc", "auroc", "auprc")
SEVERITIES = ("critical", "low", "high", "low", "moderate")
# how many cases a patient has; the last one has what is left
PATIENTS = {"none": 0, "pairs": 2, "fours": 4, "one of a third": -3}


def cases(n: int, kind: str, wrong: list[int]) -> list[Prediction]:
    """Errors and valid treatments in turn, each surely right but those in `wrong`, which are surely wrong."""
    each = PATIENTS[kind]
    found = []
    for number in range(n):
        label = ("ERROR", "CORRECT")[number % 2]
        right = number not in wrong
        p = (0.9 if (label == "ERROR") == right else 0.1) + (number * 7 % n) / (20 * n)
        patient = None if each == 0 else f"p{number // each}" if each > 0 else f"p{max(0, number - n // 3)}"
        severity = "none" if label == "CORRECT" else SEVERITIES[number // 2 % len(SEVERITIES)]
        more = {"method": "score", "p_error": p, "patient_id": patient, "severity": severity}
        found.append(prediction(number, label, "ERROR" if p > 0.5 else "CORRECT", **more))
    return found


def orders(n: int) -> list[list[int]]:
    """Ways to be wrong six times: patient after patient, spread, only errors, only valid treatments."""
    rng = np.random.default_rng(n)
    spread = [int(one) for one in rng.permutation(n)[:6]]
    return [list(range(6)), spread, list(range(0, 12, 2)), list(range(n - 1, n - 13, -2))]


def figures(card: Scorecard) -> dict[str, Measure]:
    return {**card.measures, "weighted_miss_rate": card.misses.weighted}


@pytest.mark.parametrize(
    ("n", "way"), [(20, 0), (20, 1), (20, 2), (20, 3), (40, 0), (40, 1), (40, 3), (100, 1)]
)
@pytest.mark.parametrize("kind", PATIENTS)
def test_bounds_follow_the_answers(n: int, kind: str, way: int) -> None:
    order = orders(n)[way]
    before = figures(score(cases(n, kind, [])))
    for k in range(1, 7):
        after = figures(score(cases(n, kind, order[:k])))
        for name in (*RISING, "false_flag_rate", "weighted_miss_rate"):
            sign = 1 if name in RISING else -1
            first, then = before[name].interval, after[name].interval
            assert first is not None, name
            assert then is not None, name
            for side in (0, 1):
                assert sign * (then[side] - first[side]) <= 1e-9, (name, k, first, then)
        before = after


@pytest.mark.parametrize(("errors", "valid"), [(5, 5), (12, 12), (3, 25), (20, 6)])
def test_every_table_s_bounds_follow_its_counts(errors: int, valid: int) -> None:
    """All tables of so many errors and valid treatments: one found or passed more never lowers a bound."""

    def rates(found: int, passed: int) -> tuple[float, tuple[float, float], float, tuple[float, float]]:
        a, b = found / errors, passed / valid
        return a, wilson_effective(a, errors), b, wilson_effective(b, valid)

    share = errors / (errors + valid)
    for of in (lambda *r: matthews_interval(*r, share), mean_of_two):
        table = {(f, p): of(*rates(f, p)) for f in range(errors + 1) for p in range(valid + 1)}
        for (found, passed), (low, high) in table.items():
            for more in ((found + 1, passed), (found, passed + 1)):
                if more in table:
                    assert table[more][0] >= low - 1e-12
                    assert table[more][1] >= high - 1e-12


def test_a_slight_miss_more_passes_no_gate() -> None:
    """Twenty critical and twenty slight errors: none missed leaves the gate undecided, one missed too."""
    gate = [Gate(measure="weighted_miss_rate", under=0.025)]
    for missed in (0, 1, 2):
        rows = [prediction(i, "ERROR", "ERROR", severity="critical") for i in range(20)]
        rows += [
            prediction(100 + i, "ERROR", "CORRECT" if i < missed else "ERROR", severity="low")
            for i in range(20)
        ]
        assert judge(gate, score(rows)).verdict == "undecided"


@pytest.mark.parametrize(("measure", "limit"), [("auroc", 0.95), ("f1", 0.95), ("mcc", 0.8), ("auprc", 0.95)])
def test_one_mistake_passes_no_gate_that_none_did_not(measure: str, limit: float) -> None:
    gate = [Gate(measure=measure, at_least=limit)]
    verdicts = [judge(gate, score(cases(40, "none", list(range(k))))).verdict for k in (0, 1)]
    assert verdicts == ["undecided", "undecided"]


def test_patients_are_worth_what_they_are_with_a_mistake_too() -> None:
    """Thirty patients of ten cases: one wrong of 300 is not surer than none wrong."""

    def low(wrong: int) -> float:
        rows = [
            prediction(i, "ERROR", "CORRECT" if i < wrong else "ERROR", patient_id=f"p{i // 10}")
            for i in range(300)
        ]
        interval = score(rows).accuracy_interval
        assert interval is not None
        return interval[0]

    assert low(0) == pytest.approx(wilson_effective(1.0, 30)[0])
    assert low(1) == pytest.approx(low(0))
    assert low(30) < low(1)
