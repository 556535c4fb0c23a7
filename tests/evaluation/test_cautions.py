"""What `compare` says against a run whose adapter or threshold has seen these cases."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlx_medlora.evaluation.cautions import cautions
from mlx_medlora.evaluation.comparing import compare
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import AppliedPoint, Comparison, Prediction
from mlx_medlora.evaluation.runs import Run

Make = Callable[..., list[Prediction]]


def run(name: str, cases: list[Prediction], adapter: Path | None = None, **more: Any) -> Run:
    about = {"split": "test", "split_sha256": "these", "adapter": None if adapter is None else str(adapter)}
    return Run(Path(name), score(cases).model_copy(update={"about": about, **more}), cases)


def trained(directory: Path, **splits: str) -> Path:
    """An adapter's directory whose record says which splits it read."""
    directory.mkdir()
    data = {"name": "x"} | {name: {"rows": 1, "sha256": sha} for name, sha in splits.items()}
    (directory / "run.json").write_text(json.dumps({"data": data}))
    return directory


def point(same: bool, *warnings: str) -> AppliedPoint:
    return AppliedPoint(
        temperature=1.0, threshold=0.5, rule="max-false-flag", limit=0.05, split="test",
        split_sha256="these", n=4, same_cases=same, warnings=warnings,
    )  # fmt: skip


def test_an_adapter_that_has_seen_these_cases(table: Make, tmp_path: Path) -> None:
    cases = table([("ERROR", "ERROR", 2)])
    new = trained(tmp_path / "new", train="others", val="yet others")
    learned = trained(tmp_path / "learned", train="these", val="others")
    chosen = trained(tmp_path / "chosen", train="others", val="these")
    assert cautions(run("base", cases)) == []
    assert cautions(run("new", cases, new)) == []
    assert cautions(run("learned", cases, learned)) == [
        "the adapter was trained on these very cases: the figures say nothing of new ones"
    ]
    assert cautions(run("chosen", cases, chosen)) == [
        "these very cases chose the adapter's epoch: new cases will do worse; keep a test split for the claim"
    ]


def test_a_fused_model_that_has_seen_these_cases(table: Make, tmp_path: Path) -> None:
    made = run("fused", table([("ERROR", "ERROR", 2)]))
    told = {"adapter": {"data": {"splits": {"train": {"sha256": "these"}}}}}
    (tmp_path / "mlx_medlora.json").write_text(json.dumps(told))
    made.scorecard.about["model"] = str(tmp_path)
    assert cautions(made) == [
        "the adapter was trained on these very cases: the figures say nothing of new ones"
    ]


def test_an_adapter_that_cannot_be_asked(table: Make, tmp_path: Path) -> None:
    cases = table([("ERROR", "ERROR", 2)])
    [gone] = cautions(run("gone", cases, tmp_path / "gone"))
    assert gone == (
        "whether its adapter was trained on these very cases could not be looked up: the adapter is not "
        "where it was"
    )
    (tmp_path / "bare").mkdir()
    assert cautions(run("imported", cases, tmp_path / "bare")) == []
    (tmp_path / "bare" / "run.json").write_text("{")
    [damaged] = cautions(run("damaged", cases, tmp_path / "bare"))
    assert damaged.startswith("whether its adapter was trained on these very cases could not be looked up")
    for odd in ("[]", '{"data": 3}', '{"data": {"train": "x"}}'):
        (tmp_path / "bare" / "run.json").write_text(odd)
        assert cautions(run("odd", cases, tmp_path / "bare")) == []


def test_a_threshold_chosen_on_these_cases(table: Make) -> None:
    cases = table([("ERROR", "ERROR", 2)])
    said = "its threshold was chosen on these very cases: new cases will do worse"
    told = "the threshold was chosen on these very cases: the figures are better than new cases give"
    form = "the threshold was chosen on another form of the model"
    assert cautions(run("other", cases, operating_point=point(False))) == []
    assert cautions(run("same", cases, operating_point=point(True))) == [said]
    assert cautions(run("both", cases, operating_point=point(True, told, form))) == [said, form]


def test_the_sentence_points_to_the_warnings(table: Make, tmp_path: Path) -> None:
    base = table([("ERROR", "CORRECT", 12), ("CORRECT", "CORRECT", 12)])
    tuned = table([("ERROR", "ERROR", 12), ("CORRECT", "CORRECT", 12)])
    adapter = trained(tmp_path / "adapter", train="these")
    runs = [run("base", base), run("tuned", tuned, adapter), run("again", tuned)]
    found = compare(runs)
    assert [len(one.warnings) for one in found.runs] == [0, 1, 0]
    warned, plain = found.pairs
    assert warned.sentence.startswith("tuned is better than base: 12 won, 0 lost of 24, p = ")
    assert warned.sentence.endswith(". The test knows nothing of the warnings on tuned")
    assert "warnings" not in plain.sentence
    assert Comparison.model_validate(found.model_dump(mode="json")) == found
    earlier = found.model_dump(mode="json")
    for one in earlier["runs"]:
        del one["warnings"]  # as an earlier release wrote it
    assert [one.warnings for one in Comparison.model_validate(earlier).runs] == [[], [], []]
