"""The benchmark suite: baselines, the heatmaps' cells, and what they come to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_medlora.cases.card import case_text, sections
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.baselines import answered_by, commoner, heuristic
from mlx_medlora.evaluation.gate import Gate, card_gates, judge
from mlx_medlora.evaluation.heatmaps import heatmaps
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import GateResult, Prediction, Suite
from mlx_medlora.evaluation.runner import Evaluation, write_evaluation
from mlx_medlora.evaluation.runs import read_heatmaps
from mlx_medlora.evaluation.suite import run_suite

Make = Callable[..., list[Prediction]]


def case(finding: str, treatment: str, label: str = "CORRECT", text: str | None = None) -> Case:
    written = case_text(50, "Male", finding, treatment) if text is None else text
    fields = {"id": "x", "instruction": "i", "input": written, "output": f"{label} - reason"}
    return Case.model_validate({**fields, "metadata": {"modality": "xray"}})


@pytest.mark.parametrize(
    ("finding", "treatment", "wanted"),
    [
        ("Clear lungs, no focal consolidation", "Ceftriaxone 1 g IV daily", "ERROR"),
        ("Clear lungs, no focal consolidation", "Reassurance and discharge home", "CORRECT"),
        ("Dense consolidation", "Ceftriaxone 1 g IV daily", "CORRECT"),
        ("Dense consolidation", "No antibiotics, supportive care only", "ERROR"),
        ("Abnormal opacity, unclear margins", "Biopsy", "CORRECT"),  # neither `normal` nor `clear` as a word
        ("Normal breast ultrasound, BI-RADS 1", "Core needle biopsy", "ERROR"),
        ("Focal solid breast mass, BI-RADS 5", "Core needle biopsy", "CORRECT"),
    ],
)
def test_the_keyword_rules(finding: str, treatment: str, wanted: str) -> None:
    assert heuristic(case(finding, treatment)) == wanted


def test_without_headings_the_rules_say_correct() -> None:
    assert heuristic(case("", "", text="Clear lungs. Ceftriaxone.")) == "CORRECT"
    assert sections("**A:**\none\n\n**B**: two") == [("a:", "one"), ("b", "two")]


def test_the_commoner_answer() -> None:
    right, wrong = case("a", "b"), case("a", "b", "ERROR")
    assert commoner([right, right, wrong]) == "CORRECT"
    assert commoner([right, wrong]) == "ERROR"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    directory = tmp_path_factory.mktemp("suite") / "data"
    prepare_phantoms(96, directory, val=0, test=64, seed=3, size=32)
    return Dataset.open(directory)


def answers(dataset: Dataset, wrong: Callable[[Case], bool]) -> list[Prediction]:
    """Everything right but what `wrong` picks."""
    other = {"ERROR": "CORRECT", "CORRECT": "ERROR"}
    found = []
    for one in dataset.cases("test"):
        said = other[one.label] if wrong(one) else one.label
        known = {"id": one.id, "modality": one.metadata.modality, "label": one.label, "predicted": said}
        more = {"correct": said == one.label, "method": "generate", "p_error": None, "text": said}
        kinds = {"error_type": one.metadata.error_type, "severity": one.metadata.severity}
        found.append(
            Prediction.model_validate(
                {**known, **more, **kinds, "patient_id": None, "image_paths": one.image_paths}
            )
        )
    return found


def suite(dataset: Dataset, predictions: list[Prediction], gates: list[Gate] | None = None) -> Suite:
    asked = gates or card_gates()
    card = score(predictions)
    judged = card.model_copy(update={"gates": judge(asked, card)})
    return run_suite(dataset, "test", predictions, judged, asked)


def test_the_text_of_phantoms_tells_the_rules_nothing(phantoms: Dataset) -> None:
    predictions = answers(phantoms, lambda one: False)
    found = answered_by(heuristic, phantoms.cases("test"), predictions)
    assert score(found).accuracy == 0.5
    assert all(p.correct == (p.predicted == p.label) for p in found)
    made = suite(phantoms, predictions)
    rules, majority = made.baselines
    assert (rules.name, majority.name) == ("text heuristics", "majority class")
    assert rules.scorecard.accuracy == majority.scorecard.accuracy == 0.5
    assert rules.difference.value == majority.difference.value == 0.5
    assert rules.difference.interval is not None
    assert rules.difference.interval[0] > 0.3
    assert made.sentences[-2].startswith("text heuristics (keyword rules: ERROR where")
    assert (
        "64 of 64 cases could be read; accuracy 50.0 % (38.1-61.9), 32 of 64; the model +50.0 points (+3"
        in (made.sentences[-2])
    )
    assert "always ERROR, in train and in test at least as common as the other" in made.sentences[-1]


def test_green_or_which_is_not(phantoms: Dataset) -> None:
    made = suite(phantoms, answers(phantoms, lambda one: one.metadata.modality == "mri"))
    assert made.modalities["mri"] == "fail"
    assert {made.modalities[name] for name in ("xray", "ultrasound", "histopathology")} == {"undecided"}
    assert made.absent == []
    assert "(0 of 4)" in made.sentences[0]
    assert any(
        one.startswith("Not green: mri: accuracy fail, 0.0 % (0.0-19.4) of 16") for one in made.sentences
    )
    assert any("xray: accuracy undecided, 100.0 % (80.6-100.0) of 16, about 22" in s for s in made.sentences)
    easy = [Gate(measure="accuracy", at_least=0.5), Gate(measure="fpr", under=0.5)]
    made = suite(phantoms, answers(phantoms, lambda one: one.metadata.modality == "mri"), easy)
    assert made.sentences[0] == (
        "Held against the gates on all cases too, green in every measure: "
        "histopathology, ultrasound, xray (3 of 4)."
    )
    assert made.sentences[-3] == "All modalities together: every measure passes."
    assert Suite.model_validate_json(made.model_dump_json()) == made


def test_what_is_no_share_has_no_percent(phantoms: Dataset) -> None:
    gates = [Gate(measure="mcc", at_least=0.99)]
    made = suite(phantoms, answers(phantoms, lambda one: one.metadata.modality == "mri"), gates)
    said = next(one for one in made.sentences if one.startswith("All modalities together: mcc fail, 0.5"))
    assert "%" not in said


def modality_of(cell: GateResult) -> str:
    """Its row; `all` of all together."""
    return (cell.group or {}).get("modality", "all")


def test_of_several_gates_on_a_measure_the_worst_is_shown(table: Make) -> None:
    predictions = table([("ERROR", "ERROR", 45), ("ERROR", "CORRECT", 5), ("CORRECT", "CORRECT", 45)])
    predictions += table([("CORRECT", "ERROR", 5)])
    easy, hard = (Gate(measure="accuracy", at_least=limit, each="modality") for limit in (0.5, 0.95))
    whole = Gate(measure="accuracy", at_least=0.1)
    only = Gate(measure="accuracy", at_least=0.2, only={"modality": "xray"})
    card = score(predictions)
    for gates in ([easy, hard, whole], [hard, easy, whole], [only, easy, hard, whole]):
        found = {modality_of(c): c for c in heatmaps(predictions, card, gates).by_metric}
        assert (found["xray"].verdict, found["xray"].rule) == ("fail", "at least 95 %")
        assert (found["all"].verdict, found["all"].rule) == ("pass", "at least 10 %")
        made = run_suite(Stub(), "test", predictions, card, gates)  # type: ignore[arg-type]
        assert made.modalities == {"xray": "fail"}
    # two that pass: the harder stands there; two names of one measure: one column
    both = [Gate(measure="tnr", at_least=0.1), Gate(measure="sensitivity", at_least=0.6)]
    both += [Gate(measure="fpr", under=0.9), Gate(measure="fpr", under=0.3)]
    shown = {(modality_of(c), c.measure): c.rule for c in heatmaps(predictions, card, both).by_metric}
    assert shown == {
        (row, measure): rule
        for row in ("xray", "all")
        for measure, rule in (("tnr", "at least 60 %"), ("fpr", "under 30 %"))
    }


class Stub:
    """A dataset whose cases do not matter."""

    def __init__(self, **splits: list[Case]) -> None:
        self._splits = splits

    def splits(self) -> list[str]:
        return list(self._splits)

    def cases(self, split: str) -> list[Case]:
        return self._splits.get(split) or [case("a", "b", "ERROR")] * 50 + [case("a", "b")] * 50


def test_the_majority_is_that_of_training_and_of_these_cases(table: Make) -> None:
    """Balanced training, 70 % CORRECT here: beating ERROR alone would be no feat."""
    right, wrong = case("a", "b"), case("a", "b", "ERROR")
    dataset = Stub(train=[right, wrong], test=[right] * 70 + [wrong] * 30)
    predictions = table([("CORRECT", "CORRECT", 70), ("ERROR", "CORRECT", 30)])
    card = score(predictions)
    made = run_suite(dataset, "test", predictions, card, card_gates())  # type: ignore[arg-type]
    named = {one.name: one for one in made.baselines}
    assert list(named) == ["text heuristics", "majority class of train", "majority class of test"]
    assert named["majority class of train"].difference.value == pytest.approx(0.4)
    assert named["majority class of test"].difference.value == 0.0
    assert made.sentences[-1].startswith(
        "majority class of test (always CORRECT, in test at least as common as the other): accuracy "
        "70.0 % (60.4-78.1), 70 of 100; the model +0.0 points ("
    )
    dataset = Stub(test=[right] * 70 + [wrong] * 30)
    made = run_suite(dataset, "test", predictions, card, card_gates())  # type: ignore[arg-type]
    assert [one.name for one in made.baselines] == ["text heuristics", "majority class"]
    assert made.sentences[-1].startswith("majority class (always CORRECT, in test at least as")


def test_the_rules_say_of_how_many_cases_they_could_read(table: Make) -> None:
    blank = case("", "", text="Clear lungs. Ceftriaxone.")
    half = case("", "", text="**Image Findings:**\nClear lungs")
    whole = case("Clear lungs", "Ceftriaxone 1 g", "ERROR")
    dataset = Stub(test=[blank] * 6 + [half] * 2 + [whole] * 2)
    predictions = table([("CORRECT", "CORRECT", 8), ("ERROR", "ERROR", 2)])
    made = run_suite(dataset, "test", predictions, score(predictions), card_gates())  # type: ignore[arg-type]
    assert made.baselines[0].read == 2
    said = made.sentences[-2]
    assert "2 of 10 cases could be read, the others (no finding or no treatment under a heading) are" in said
    assert "called CORRECT; accuracy 100.0 % (72.2-100.0), 10 of 10" in said
    assert made.baselines[1].read is None


def test_a_modality_named_all_has_a_row_of_its_own(table: Make) -> None:
    predictions = table([("ERROR", "ERROR", 1)], modality="all")
    predictions += table([("CORRECT", "ERROR", 1)], modality="xray")
    found = heatmaps(predictions, score(predictions), card_gates())
    assert [(c.group, c.n) for c in found.by_metric if c.measure == "accuracy"] == [
        ({"modality": "all"}, 1), ({"modality": "xray"}, 1), (None, 2),
    ]  # fmt: skip
    kinds = [(c.group, c.n) for c in found.by_error_type]
    assert ({"modality": "all", "error_type": "overtreatment"}, 1) in kinds
    assert ({"error_type": "overtreatment"}, 1) in kinds


def test_an_error_without_a_type_is_no_valid_treatment(table: Make) -> None:
    predictions = table([("ERROR", "CORRECT", 3), ("CORRECT", "CORRECT", 4)], error_type="none")
    found = heatmaps(predictions, score(predictions), card_gates()).by_error_type
    whole = [c for c in found if c.group and "modality" not in c.group]
    assert [((c.group or {})["error_type"], c.value, c.n) for c in whole] == [
        ("not stated", 0.0, 3), ("none", 1.0, 4),
    ]  # fmt: skip


def test_cells_are_the_scorecard_s_and_what_can_be_counted_by_hand(table: Make) -> None:
    predictions = [
        *table([("ERROR", "ERROR", 6), ("ERROR", "CORRECT", 2), ("CORRECT", "CORRECT", 9)]),
        *table([("CORRECT", "ERROR", 1), ("ERROR", None, 3)], modality="mri", error_type="omission"),
    ]
    card = score(predictions)
    found = heatmaps(predictions, card, card_gates())
    cells = {(modality_of(c), c.measure): c for c in found.by_metric}
    assert set(cells) == {
        (row, m) for row in ("xray", "mri", "all") for m in ("accuracy", "tpr", "tnr", "fpr")
    }
    for (row, measure), cell in cells.items():
        scores = card if row == "all" else card.by_modality[row]
        wanted = scores.measures["accuracy"] if measure == "accuracy" else getattr(scores, measure)
        assert (cell.value, cell.interval, cell.n) == (wanted.value, wanted.interval, wanted.n)
    assert (cells["xray", "accuracy"].at_least, cells["all", "accuracy"].at_least) == (0.85, 0.90)

    kinds: dict[tuple[str, str], GateResult] = {
        (modality_of(c), c.group["error_type"]): c for c in found.by_error_type if c.group
    }
    assert (kinds["xray", "overtreatment"].value, kinds["xray", "overtreatment"].n) == (0.75, 8)
    assert (kinds["mri", "omission"].value, kinds["mri", "omission"].n) == (0.0, 3)  # unreadable: not found
    assert kinds["mri", "omission"].verdict == "fail"
    assert (kinds["xray", "omission"].value, kinds["xray", "omission"].n) == (None, 0)
    assert (kinds["all", "none"].value, kinds["all", "none"].n) == (0.9, 10)
    assert (kinds["mri", "none"].value, kinds["mri", "none"].verdict) == (0.0, "fail")
    assert [c.group["error_type"] for c in found.by_error_type[:3] if c.group] == [
        "omission", "overtreatment", "none",
    ]  # fmt: skip


def test_the_nearest_gate_is_taken(table: Make) -> None:
    predictions = table([("ERROR", "ERROR", 5), ("CORRECT", "CORRECT", 5)])
    predictions += table([("ERROR", "ERROR", 5), ("CORRECT", "CORRECT", 5)], modality="mri")
    gates = [
        Gate(measure="sensitivity", at_least=0.6),
        Gate(measure="sensitivity", at_least=0.7, each="modality"),
        Gate(measure="sensitivity", at_least=0.8, only={"modality": "mri"}),
        Gate(measure="accuracy", at_least=0.1, only={"severity": "high"}),
        Gate(measure="weighted_miss_rate", under=0.5),
    ]
    found = heatmaps(predictions, score(predictions), gates)
    shown = {(modality_of(c), c.measure): c.at_least for c in found.by_metric}
    assert shown == {("mri", "sensitivity"): 0.8, ("xray", "sensitivity"): 0.7, ("all", "sensitivity"): 0.6}
    kinds = {(modality_of(c), c.group["error_type"]): c.at_least for c in found.by_error_type if c.group}
    assert kinds["mri", "overtreatment"] == 0.6
    assert kinds["mri", "none"] == 0.95  # no gate on valid treatments: the dataset card's


def test_every_run_keeps_its_cells(table: Make, tmp_path: Path) -> None:
    found = Evaluation(table([("ERROR", "ERROR", 5), ("CORRECT", "CORRECT", 5)]))
    mine = [Gate(measure="ppv", at_least=0.6)]
    for name, gates in (("plain", None), ("mine", mine)):
        card = write_evaluation(tmp_path / name, found, {"split": "val"}, gates=gates)
        wanted = heatmaps(found.predictions, card, gates or card_gates())
        assert read_heatmaps(tmp_path / name) == wanted
    assert {cell.measure for cell in read_heatmaps(tmp_path / "mine").by_metric} == {"ppv"}
    (tmp_path / "plain" / "heatmaps.json").unlink()
    with pytest.raises(InputError, match="it has no heatmaps"):
        read_heatmaps(tmp_path / "plain")


def test_one_case_of_one_class_gives_cells_and_no_crash(table: Make) -> None:
    predictions = table([("ERROR", None, 1)])
    found = heatmaps(predictions, score(predictions), card_gates())
    assert {c.verdict for c in found.by_metric} <= {"pass", "fail", "undecided"}
    tpr = next(c for c in found.by_metric if c.measure == "tpr")
    assert (tpr.value, tpr.verdict, tpr.reason) == (None, "undecided", "no valid treatments among the cases")
