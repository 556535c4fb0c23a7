"""From scored answers to a threshold, a comparison and gates, on the embedded model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.results import Comparison, OperatingPoint, Scorecard
from mlx_medlora.evaluation.runs import cases_of, read_run

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, dict[str, Any], str]]


def test_from_scores_to_a_threshold_and_a_comparison(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    tuned = [*place, "--adapter", adapter]
    status, point, _ = call("calibrate", *tuned, "--max-false-flag", "0.1")
    assert status == 0
    assert Path(point.pop("output")) == adapter / "operating_point.json"
    kept = OperatingPoint.model_validate_json((adapter / "operating_point.json").read_text())
    assert kept.model_dump(mode="json") == point
    assert (kept.split, kept.n, kept.rule, kept.limit) == ("val", 8, "max-false-flag", 0.1)

    # a threshold that no case reaches: whoever uses it answers CORRECT throughout
    never = kept.model_copy(update={"threshold": 1.1, "temperature": 2.0})
    (adapter / "operating_point.json").write_text(never.model_dump_json())
    runs = {name: tmp_path / name for name in ("used", "ignored", "val", "words")}
    for name, more in {
        "used": ["--split", "test"],
        "ignored": ["--split", "test", "--ignore-operating-point"],
        "val": ["--split", "val"],
    }.items():
        status, card, said = call("eval", *tuned, *more, "--output", runs[name])
        assert status == 0
        assert ("chosen on these very cases" in said) == (name == "val")
        assert (card["operating_point"] is None) == (name == "ignored")
    used, ignored = read_run(runs["used"]), read_run(runs["ignored"])
    assert {p.predicted for p in used.predictions} == {"CORRECT"}
    assert {p.threshold for p in used.predictions} == {1.1}
    assert [p.p_error for p in used.predictions] == [p.p_error for p in ignored.predictions]
    assert all(p.p_calibrated != p.p_error for p in used.predictions if p.p_error != 0.5)
    assert ignored.scorecard.accuracy is not None
    assert ignored.scorecard.accuracy >= 0.75

    status, found, _ = call("compare", runs["used"], runs["ignored"])
    assert status == 0
    assert Path(found.pop("output")) == runs["ignored"] / "comparison.json"
    comparison = Comparison.model_validate(found)
    assert set(comparison.pairs[0].won) == {
        b.id
        for a, b in zip(used.predictions, ignored.predictions, strict=True)
        if b.correct and not a.correct
    }
    status, _, said = call("compare", runs["used"], runs["val"], "--output", tmp_path / "c.json")
    assert status == 2
    assert "its cases are not those of" in said
    assert not (tmp_path / "c.json").exists()
    told = runs["used"] / "predictions.jsonl"
    before = told.read_bytes()
    status, _, said = call("compare", runs["used"], runs["ignored"], "--output", told)
    assert (status, told.read_bytes()) == (2, before)
    assert "exists and is no comparison" in said
    assert call("compare", runs["used"], runs["ignored"])[0] == 0  # its own file is written anew

    status, card, said = call(
        "eval", *tuned, "--method", "generate", "--max-tokens", "4", "--output", runs["words"]
    )
    assert status == 0
    assert "written answers are taken as they stand" in said
    assert card["operating_point"] is None


def test_what_is_made_of_the_adapter_goes_without(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    assert "left behind" not in call("export", adapter, tmp_path / "before")[2]
    assert call("calibrate", *place, "--adapter", adapter, "--min-sensitivity", "0.9")[0] == 0
    for name, command in {
        "peft": ["export", adapter, tmp_path / "peft"],
        "fused": ["fuse", *place[:2], "--adapter", adapter, "--output", tmp_path / "fused"],
    }.items():
        status, _, said = call(*command)
        assert status == 0
        assert "operating_point.json was left behind" in said
        assert not (tmp_path / name / "operating_point.json").exists()


def test_generate_says_the_verdict_of_the_operating_point(
    place: list[str | Path], phantom_dataset: Path, adapter: Path, call: Call
) -> None:
    case = json.loads((phantom_dataset / "val.jsonl").read_text().splitlines()[0])
    model = place[:2]
    asked = [
        "generate", *model, "--adapter", adapter, "--image", phantom_dataset / case["image_path"],
        "--system", case["instruction"], "--prompt", case["input"], "--max-tokens", "12",
    ]  # fmt: skip
    _, plain, _ = call(*asked)
    assert "verdict" not in plain
    assert plain["text"].startswith(("ERROR -", "CORRECT -"))
    assert call("calibrate", *place, "--adapter", adapter, "--min-sensitivity", "0.9")[0] == 0
    path = adapter / "operating_point.json"
    for threshold, verdict in ((0.0, "ERROR"), (1.1, "CORRECT")):
        point = OperatingPoint.model_validate_json(path.read_text())
        path.write_text(point.model_copy(update={"threshold": threshold}).model_dump_json())
        status, found, said = call(*asked)
        assert status == 0
        assert found["text"] == plain["text"]
        assert found["verdict"]["verdict"] == verdict
        assert ("are not the same" in said) == (not plain["text"].startswith(verdict))
    assert 0 <= found["verdict"]["p_error"] <= 1
    assert "another form of the model" not in said
    other = OperatingPoint.model_validate_json(path.read_text()).model_copy(update={"model_fingerprint": "0"})
    path.write_text(other.model_dump_json())
    assert "the threshold was chosen on another form of the model" in call(*asked)[2]
    assert call(*asked, "--ignore-operating-point")[1] == plain
    short = [*asked[:-1], "1"]  # no verdict can be read: nothing is said of one
    assert "verdict" not in call(*short)[1] or call(*short)[1]["text"].startswith(("ERROR", "CORRECT"))


def test_the_scored_verdict_of_generate_is_that_of_eval(
    place: list[str | Path], phantom_dataset: Path, adapter: Path, tmp_path: Path, call: Call
) -> None:
    assert call("calibrate", *place, "--adapter", adapter, "--min-sensitivity", "0.9")[0] == 0
    call("eval", *place, "--adapter", adapter, "--output", tmp_path / "run")
    done = read_run(tmp_path / "run")
    first = done.predictions[0]
    case = cases_of(done)[1][first.id]
    _, found, _ = call(
        "generate", *place[:2], "--adapter", adapter, "--image", phantom_dataset / first.image_paths[0],
        "--system", case.instruction, "--prompt", case.input, "--max-tokens", "12",
    )  # fmt: skip
    assert found["verdict"]["p_error"] == pytest.approx(first.p_error, abs=1e-4)
    assert found["verdict"]["verdict"] == first.predicted


def test_required_gates_that_are_not_met_give_status_3_after_writing(
    place: list[str | Path], tmp_path: Path, call: Call
) -> None:
    easy = tmp_path / "easy.yaml"
    easy.write_text("gates:\n  - {measure: invalid_rate, under: 0.9}\n")
    status, card, _ = call("eval", *place, "--gates", easy, "--require-gates", "--output", tmp_path / "met")
    assert (status, card["gates"]["verdict"], card["gates"]["source"]) == (0, "pass", str(easy))
    status, card, said = call("eval", *place, "--require-gates", "--output", tmp_path / "unmet")
    assert status == 3
    assert card["gates"]["verdict"] != "pass"
    assert "gates not met: accuracy at least 90 %" in said
    written = Scorecard.model_validate_json((tmp_path / "unmet" / "scorecard.json").read_text())
    assert written.gates is not None
    assert written.gates.source == "dataset card"
    assert call("eval", *place, "--output", tmp_path / "unasked")[0] == 0


def test_groups_and_margin_reach_the_scorecard(place: list[str | Path], tmp_path: Path, call: Call) -> None:
    flags = ["--by", "image_has_finding", "--margin", "0.2"]
    status, card, _ = call("eval", *place, *flags, "--output", tmp_path / "run")
    assert status == 0
    assert set(card["by"]) == {"modality", "error_type", "severity", "image_has_finding"}
    assert sum(group["n"] for group in card["by"]["image_has_finding"].values()) == 8
    assert card["sample_size"]["margin"] == 0.2
    assert card["sample_size"]["least"] == 35


def test_a_run_finds_its_cases_again_and_copies_none(
    place: list[str | Path], phantom_dataset: Path, tmp_path: Path, call: Call
) -> None:
    call("eval", *place, "--by", "image_has_finding", "--output", tmp_path / "run")
    done = read_run(tmp_path / "run")
    moved = Path(shutil.copytree(phantom_dataset, tmp_path / "moved"))
    for data in (None, moved):
        dataset, cases = cases_of(done, data)
        assert [cases[p.id].label for p in done.predictions] == [p.label for p in done.predictions]
        assert all(dataset.image_files(case) for case in cases.values())
    written = (tmp_path / "run" / "predictions.jsonl").read_text()
    for case in cases.values():
        for line in (case.instruction, case.output, *case.input.splitlines()):
            assert len(line) < 12 or line not in written
    shown = {"modality", "error_type", "severity", "image_has_finding"}
    assert all(set(p.metadata) == shown for p in done.predictions)
    text = (moved / "val.jsonl").read_text()
    (moved / "val.jsonl").write_text(text.replace("Age: ", "Age: 1", 1))
    with pytest.raises(InputError, match="is not the one that"):
        cases_of(done, moved)


def test_wrong_input_is_named_before_the_model_loads(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_medlora.lora.load.load", lambda *_: pytest.fail("the model was loaded"))
    output = ["--output", tmp_path / "out"]
    tuned = [*place, "--adapter", adapter]
    (tmp_path / "gates.yaml").write_text("gates:\n  - {measure: fpr, under: 0.1, each: site}\n")
    for arguments, wanted in [
        (["eval", *place, *output, "--by", "sight"], "no case has the metadata field 'sight'"),
        (["eval", *place, *output, "--gates", tmp_path / "gates.yaml"], "--by site"),
        (["eval", *place, *output, "--gates", tmp_path / "gone.yaml"], "no such file"),
        (["calibrate", *tuned], "--max-false-flag SHARE or --min-sensitivity"),
        (["calibrate", *tuned, "--max-false-flag", "0.1", "--min-sensitivity", "0.9"], "and not both"),
        (["calibrate", *place, "--adapter", tmp_path / "gone", "--max-false-flag", "0.1"], "no such adapter"),
        (["compare", tmp_path / "gone", tmp_path / "gone"], "no such run directory"),
        (["compare", tmp_path], "not an evaluation's directory"),
    ]:
        status, _, said = call(*arguments)
        assert status == 2
        assert wanted in said
    (adapter / "operating_point.json").write_text("{")
    for arguments in (["eval", *tuned, *output], ["calibrate", *tuned, "--max-false-flag", "0.1"]):
        status, _, said = call(*arguments)
        assert status == 2
        assert "operating_point.json" in said
    assert not (tmp_path / "out").exists()


def test_an_adapter_s_own_training_cases_are_told(
    place: list[str | Path], adapter: Path, tmp_path: Path, call: Call
) -> None:
    _, card, said = call("eval", *place, "--adapter", adapter, "--output", tmp_path / "a")
    assert "trained on these very cases" not in said
    record = json.loads((adapter / "run.json").read_text())
    record["data"]["train"]["sha256"] = card["about"]["split_sha256"]
    (adapter / "run.json").write_text(json.dumps(record))
    assert (
        "trained on these very cases"
        in call("eval", *place, "--adapter", adapter, "--output", tmp_path / "b")[2]
    )


def test_cases_that_chose_the_epoch_are_told(
    place: list[str | Path], adapter: Path, phantom_dataset: Path, tmp_path: Path, call: Call
) -> None:
    """By `run.json`, and by what an exported adapter says of its data; having learned them is graver."""
    data = shutil.copytree(phantom_dataset, tmp_path / "data")
    (data / "test.jsonl").unlink(missing_ok=True)
    arguments = [*place[:2], "--data", data, "--no-forgetting"]
    _, card, said = call("eval", *arguments, "--adapter", adapter, "--output", tmp_path / "a")
    assert "chose the adapter's epoch" not in said
    record = json.loads((adapter / "run.json").read_text())
    own = card["about"]["split_sha256"]
    record["data"]["val"]["sha256"] = own
    (adapter / "run.json").write_text(json.dumps(record))
    said = call("eval", *arguments, "--adapter", adapter, "--output", tmp_path / "b")[2]
    wanted = "these very cases chose the adapter's epoch: new cases will do worse"
    assert f"{wanted}; keep a test split for the claim" in " ".join(said.split())
    page = (tmp_path / "b" / "report.html").read_text()
    assert "These very cases chose the adapter&#39;s epoch" in page
    assert page.index("These very cases chose") < page.index("Verdict")
    status, _, said = call("calibrate", *arguments[:4], "--adapter", adapter, "--max-false-flag", "0.1")
    assert (status, "chose the adapter" in said) == (0, False)
    shutil.copy(data / "train.jsonl", data / "test.jsonl")
    (adapter / "run.json").unlink()
    (adapter / "training_data.json").write_text(json.dumps({"splits": record["data"]}))
    assert call("report", tmp_path / "b")[0] == 0
    page = (tmp_path / "b" / "report.html").read_text()
    assert "for a claim evaluate the split test (--split test)." in page
    (data / "test.jsonl").unlink()
    for name in ("train", "val"):
        record["data"][name]["sha256"] = own
    (adapter / "run.json").write_text(json.dumps(record))
    said = call("eval", *arguments, "--adapter", adapter, "--output", tmp_path / "c")[2]
    assert "trained on these very cases" in said
    assert "chose the adapter" not in said


def test_for_people(
    place: list[str | Path], adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = [*place, "--adapter", adapter]
    for name, arguments in {
        "base": ["eval", *place],
        "tuned": ["eval", *tuned],
    }.items():
        assert run([str(a) for a in [*arguments, "--output", tmp_path / name]]) == 0
    said = capsys.readouterr().out
    for wanted in ("Gates (dataset card): ", "Errors not found, by severity", "auroc", "severity: critical"):
        assert wanted in said
    assert "8 cases cannot show 90 %: even with every answer right it takes 35" in said
    assert run([str(a) for a in ["compare", tmp_path / "base", tmp_path / "tuned"]]) == 0
    said = capsys.readouterr().out
    for wanted in ("each run against the first", "tuned won: ", "not a medical device"):
        assert wanted in said
    assert run([str(a) for a in ["calibrate", *tuned, "--max-false-flag", "0.05"]]) == 0
    said = capsys.readouterr().out
    for wanted in ("Temperature", "Valid treatments flagged", "Note: these cases chose the threshold"):
        assert wanted in said
    assert run([str(a) for a in ["eval", *tuned, "--output", tmp_path / "chosen"]]) == 0
    capsys.readouterr()
    assert run([str(a) for a in ["compare", tmp_path / "base", tmp_path / "chosen"]]) == 0
    told = capsys.readouterr()
    warning = "chosen: its threshold was chosen on these very cases: new cases will do worse"
    assert f"Warning: {warning}" in told.err
    assert "Warning: base: " not in told.err
    assert "The test knows nothing of the warnings on chosen" in told.out
