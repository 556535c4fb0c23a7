import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.comparing import compare, holm, mcnemar, newcombe, write_comparison
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import Comparison, Prediction
from mlx_medlora.evaluation.runner import Evaluation, write_evaluation
from mlx_medlora.evaluation.runs import Run, read_run
from mlx_medlora.files import read_json

Make = Callable[..., list[Prediction]]


def run(name: str, cases: list[Prediction], sha: str = "a") -> Run:
    about = {"split": "test", "split_sha256": sha}
    return Run(Path(name), score(cases).model_copy(update={"about": about}), cases)


def flipped(cases: list[Prediction], rows: list[int]) -> list[Prediction]:
    """The same cases, the answers in `rows` turned."""
    other = {"ERROR": "CORRECT", "CORRECT": "ERROR"}
    found = list(cases)
    for row in rows:
        said = other[str(cases[row].predicted)]
        found[row] = cases[row].model_copy(update={"predicted": said, "correct": said == cases[row].label})
    return found


def test_by_hand(table: Make) -> None:
    base = table([("ERROR", "CORRECT", 6), ("ERROR", "ERROR", 14), ("CORRECT", "CORRECT", 20)])
    tuned = flipped(base, [0, 1, 2, 3, 4, 39])  # five won, one lost
    found = compare([run("base", base), run("tuned", tuned)])
    [pair] = found.pairs
    assert pair.won == [f"case_{row}" for row in range(5)]
    assert pair.lost == ["case_39"]
    assert (pair.both_right, pair.both_wrong, pair.n) == (33, 1, 40)
    assert pair.p_value == pytest.approx(2 * (1 + 6) / 64)  # 6 throws, at most one tail
    assert pair.difference.value == pytest.approx(4 / 40)
    assert pair.p_patients is None
    assert "cannot be told apart: 5 won, 1 lost of 40, p = 0.219" in pair.sentence
    assert [(one.name, one.accuracy) for one in found.runs] == [("base", 34 / 40), ("tuned", 38 / 40)]


def test_mcnemar_against_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for won, lost in [*rng.integers(0, 30, (40, 2)).tolist(), [0, 0], [1, 0]]:
        theirs = their_mcnemar([[10, won], [lost, 10]], exact=True).pvalue if won + lost else 1.0
        assert mcnemar(won, lost) == pytest.approx(min(theirs, 1.0), abs=1e-12)


def test_holm_against_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for size in (1, 2, 5, 9):
        p = rng.random(size) ** 3
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-12)
    assert holm([]) == []


def test_newcombe_s_published_example() -> None:
    """Newcombe 1998 (paired data), method 10, cells 36, 12, 2 and 0."""
    assert newcombe(36, 12, 2, 0) == pytest.approx((0.0569, 0.3404), abs=6e-5)


def test_uncorrelated_pairs_have_the_interval_of_independent_shares() -> None:
    """Cells whose product is balanced have no correlation, and the paired method is the plain one."""
    for both, won, lost, neither in ((20, 30, 10, 15), (1, 1, 1, 1), (12, 6, 4, 2)):
        assert both * neither == won * lost
        n = both + won + lost + neither
        theirs = confint_proportions_2indep(both + won, n, both + lost, n, method="newcomb", compare="diff")
        assert newcombe(both, won, lost, neither) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("cells", [(10, 0, 0, 0), (0, 0, 0, 10), (0, 10, 0, 0), (0, 0, 1, 0), (5, 0, 0, 5)])
def test_newcombe_at_the_edges(cells: tuple[int, int, int, int]) -> None:
    low, high = newcombe(*cells)
    value = (cells[1] - cells[2]) / sum(cells)
    assert -1 <= low <= value <= high <= 1
    assert low < high


def test_newcombe_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    drawn = rng.multinomial(60, [0.6, 0.2, 0.08, 0.12], size=600)
    intervals = [newcombe(*map(int, cells)) for cells in drawn]
    assert 0.93 <= np.mean([low <= 0.12 <= high for low, high in intervals]) <= 0.985


def test_repeated_patients_widen_it(table: Make) -> None:
    """Twenty-five patients of four cases: each wins or loses all of them."""
    base = table([("ERROR", "CORRECT", 60), ("ERROR", "ERROR", 40)])
    tuned = flipped(base, list(range(100)))
    alone = compare([run("base", base), run("tuned", tuned)]).pairs[0]
    whose = [{"patient_id": f"p{row // 4}"} for row in range(100)]
    base, tuned = (
        [c.model_copy(update=own) for c, own in zip(cases, whose, strict=True)] for cases in (base, tuned)
    )
    found = compare([run("base", base), run("tuned", tuned)]).pairs[0]
    assert (alone.p_patients, found.p_value) == (None, alone.p_value)
    assert found.p_patients is not None
    exact = mcnemar(15, 10)  # fifteen patients against ten
    assert found.p_patients == pytest.approx(exact, abs=0.02)
    assert found.p_adjusted == found.p_patients
    assert found.difference.interval is not None
    assert alone.difference.interval is not None
    width = [one[1] - one[0] for one in (found.difference.interval, alone.difference.interval)]
    assert width[0] > 1.7 * width[1]


def test_several_runs_are_held_against_the_first(random_cases: Make) -> None:
    cases = random_cases(60, 0, unreadable=0)
    runs = [run("a", cases), run("b", flipped(cases, [0, 1])), run("c", cases)]
    found = compare(runs)
    assert [(pair.first, pair.second) for pair in found.pairs] == [("a", "b"), ("a", "c")]
    assert (found.pairs[1].p_value, found.pairs[1].won, found.pairs[1].lost) == (1.0, [], [])
    assert found.pairs[0].p_adjusted == min(1.0, 2 * found.pairs[0].p_value)


def test_names_that_end_alike_are_told_apart(table: Make) -> None:
    cases = table([("ERROR", "ERROR", 2)])
    found = compare([run("one/eval", cases), run("two/eval", cases)])
    assert [one.name for one in found.runs] == ["one/eval", "two/eval"]
    with pytest.raises(InputError, match="the same run is given twice"):
        compare([run("one/eval", cases), run("one/eval", cases)])


def test_other_cases_are_refused(table: Make) -> None:
    cases = table([("ERROR", "ERROR", 2), ("CORRECT", "CORRECT", 2)])
    with pytest.raises(InputError, match=r"b: its cases are not those of a \(3 against 4: case_3\)"):
        compare([run("a", cases), run("b", cases[:3])])
    with pytest.raises(InputError, match="in another order"):
        compare([run("a", cases), run("b", cases[::-1])])
    with pytest.raises(InputError, match="not the same text or images"):
        compare([run("a", cases), run("b", cases, sha="b")])
    with pytest.raises(InputError, match="at least two runs"):
        compare([run("a", cases)])


def test_where_test_and_interval_part_the_sentence_says_which_counts(table: Make) -> None:
    base = table([("ERROR", "CORRECT", 5), ("CORRECT", "CORRECT", 7)])
    [pair] = compare([run("base", base), run("tuned", flipped(base, range(5)))]).pairs
    assert pair.p_value == pytest.approx(2 / 32)
    assert pair.difference.interval is not None
    assert pair.difference.interval[0] > 0
    assert "p = 0.0625. The interval of the difference leaves 0 out; the test" in pair.sentence


def test_it_is_written_and_read_back(table: Make, tmp_path: Path) -> None:
    cases = table([("ERROR", "ERROR", 2), ("CORRECT", "ERROR", 2)])
    about = {"split": "val", "split_sha256": "s"}
    for name in ("a", "b"):
        write_evaluation(tmp_path / name, Evaluation(cases), about)
    found = compare([read_run(tmp_path / name) for name in ("a", "b")])
    write_comparison(tmp_path / "b" / "comparison.json", found)
    assert Comparison.model_validate(read_json(tmp_path / "b" / "comparison.json")) == found
    read_run(tmp_path / "b")  # still a run
    with pytest.raises(InputError, match="is a directory"):
        write_comparison(tmp_path / "b", found)


def test_what_is_no_run_is_named(table: Make, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run directory"):
        read_run(tmp_path / "gone")
    with pytest.raises(InputError, match=r"has no scorecard\.json"):
        read_run(tmp_path)
    run_at = tmp_path / "run"
    write_evaluation(run_at, Evaluation(table([("ERROR", "ERROR", 2)])), {})
    rows = (run_at / "predictions.jsonl").read_text().splitlines()
    (run_at / "predictions.jsonl").write_text(rows[0] + "\n")
    with pytest.raises(InputError, match="has 1 answers, and the scorecard counts 2"):
        read_run(run_at)
    turned = json.dumps(json.loads(rows[1]) | {"predicted": "CORRECT", "correct": False})
    (run_at / "predictions.jsonl").write_text(f"{rows[0]}\n{turned}\n")
    with pytest.raises(InputError, match="1 of its answers are right, and the scorecard counts 2"):
        read_run(run_at)
    (run_at / "predictions.jsonl").write_text(rows[0] + '\n{"id": 3}\n')
    with pytest.raises(InputError, match=r"predictions\.jsonl:2"):
        read_run(run_at)
    (run_at / "scorecard.json").write_text("{}")
    with pytest.raises(InputError, match="is missing"):
        read_run(run_at)
