"""What lies beside a run on its page: data that moved, notices, curves, comparisons."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pages import evidence, rows, seen
from runs import POINT, row, usual, write_dataset, write_run

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.comparing import compare, write_comparison
from mlx_medlora.evaluation.results import Measure
from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.report.page import render
from mlx_medlora.report.sources import Options, gather


def test_a_dataset_that_is_gone(tmp_path: Path) -> None:
    run = usual(tmp_path)
    moved = shutil.move(tmp_path / "data", tmp_path / "moved")
    text = render(evidence(run))
    assert "text and images are not shown" in seen(text)
    assert "input" not in rows(text)[0]
    assert "input" in rows(render(gather(read_run(run), Path(moved))))[0]
    with pytest.raises(InputError, match="no such dataset"):
        gather(read_run(run), tmp_path / "data")
    broken = tmp_path / "moved" / "images" / "3.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(InputError, match="is not the one"):
        gather(read_run(run), Path(moved))


def test_paths_hold_from_another_directory_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eval` was called above the run's directory; `report` is called within it, and elsewhere."""
    run = usual(tmp_path)
    card = json.loads((run / "scorecard.json").read_text())
    card["about"]["data"] = Path(card["about"]["data"]).relative_to(tmp_path).as_posix()
    (run / "scorecard.json").write_text(json.dumps(card))
    (tmp_path / "elsewhere").mkdir()
    for place, name in [(tmp_path, run), (run, Path()), (tmp_path / "elsewhere", Path("..") / run.name)]:
        monkeypatch.chdir(place)
        assert len(rows(render(evidence(name)))) == 60
        assert evidence(name).absent is None


def test_an_image_that_cannot_be_opened(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [row(0), row(1, "CORRECT")])
    (data / "images" / "0.png").write_bytes(b"no image")
    run = write_run(tmp_path / "run", data, [0.9, 0.1])
    html = render(evidence(run))
    assert '"images":[null,"data:image/webp' in html


def test_what_a_reader_must_know_stands_first(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    run = usual(tmp_path, adapter=str(adapter))
    found = evidence(run)
    assert 'id="alerts"' not in render(found)
    record = {"data": {"train": {"sha256": found.about["split_sha256"]}}, "versions": {"mlx": "9.9.9"}}
    (adapter / "run.json").write_text(json.dumps(record | {"settings": {"lr": 2e-4, "rank": 16}}))
    measure = Measure(name="image_effect", value=0.01, n=60, meaning="accuracy lost without images")
    dependence = {
        "verdict": "does not look at the image",
        "looks": False,
        "shortcut": True,
        "figures": [measure.model_dump()],
    }
    (run / "dependence.json").write_text(json.dumps(dependence | {"later": "fields are let through"}))
    finding = {
        "kind": "overfitting",
        "found": True,
        "sentence": "Validation loss rose.",
        "advice": "dropout 0.2",
    }
    untold = {"kind": "forgetting", "found": None, "sentence": "Not asked.", "advice": ""}
    (run / "health.json").write_text(json.dumps({"findings": [finding, untold]}))
    drift = {"name": "kl", "value": 0.123, "n": 40, "meaning": "how far it moves", "interval": [0.1, 0.2]}
    drifts = {"n": 40, "kl": drift, "loss_change": drift | {"name": "loss_change"}, "threshold": 0.5}
    (run / "forgetting.json").write_text(json.dumps(drifts | {"more": "is let through"}))
    found = evidence(run)
    found = replace(found, scorecard=found.scorecard.model_copy(update={"operating_point": POINT}))
    text = seen(render(found))
    verdict = text.index("Verdict")
    for wanted in (
        "The image does not carry its right answers.",
        "The text alone gives answers away",
        "trained on these very cases",
        "threshold was chosen on these very cases",
        "Overfitting: Validation loss rose.",
    ):
        assert text.index(wanted) < verdict
    for wanted in (
        *("Image effect 1.0 %", "Advice: dropout 0.2", "9.9.9", "Lr 0.0002"),
        *("? cannot be told: Forgetting", "KL 0.123 0.100 to 0.200"),
    ):
        assert text.index(wanted) > verdict


def test_what_was_not_looked_into_is_said_first(tmp_path: Path) -> None:
    run = usual(tmp_path, adapter=str(tmp_path / "gone"))
    text = seen(render(evidence(run)))
    assert text.index("Whether the answers come from the images was not measured") < text.index("Verdict")
    assert text.index("The adapter is not where it was") < text.index("Verdict")
    (tmp_path / "gone").mkdir()
    (run / "dependence.json").write_text(json.dumps({"verdict": "looks at the image", "looks": True}))
    text = seen(render(evidence(run)))
    assert "was not measured" not in text
    assert "is not where it was" not in text


def test_a_model_that_hardly_looks_is_no_green_box(tmp_path: Path) -> None:
    run = usual(tmp_path)
    verdict = "hardly looks at the image; the text gives answers away"
    told = {"verdict": verdict, "looks": None, "hardly": True, "shortcut": True}
    (run / "dependence.json").write_text(json.dumps(told))
    html = render(evidence(run))
    text = seen(html)
    first = text.index("The image gives few of its right answers. The verdict: hardly looks at the image")
    assert first < text.index("Verdict")
    assert text.index("The text alone gives answers away") < text.index("Verdict")
    assert "was not measured" not in text
    assert f'<div class="box undecided">\n<p class="verdict">! {verdict}</p>' in html
    (run / "dependence.json").write_text(json.dumps({"verdict": "looks at the image", "looks": True}))
    html = render(evidence(run))
    assert '<div class="box pass">\n<p class="verdict">✓ looks at the image</p>' in html
    assert 'id="alerts"' not in html
    (run / "dependence.json").write_text(json.dumps({"verdict": "undecided whether it looks"}))
    assert '<p class="verdict">? undecided whether it looks</p>' in render(evidence(run))


def test_answers_to_other_cases_are_not_put_beside_these(tmp_path: Path) -> None:
    run = usual(tmp_path)
    path = run / "predictions.jsonl"
    path.write_text(path.read_text().replace("case_0003", "case_x", 1))
    found = evidence(run)
    assert found.absent is not None
    assert "answer 4 is to a case that the split 'test' does not have" in found.absent


def test_warnings_of_the_operating_point_are_sentences(tmp_path: Path) -> None:
    found = evidence(usual(tmp_path))
    warning = "the threshold was chosen on these very cases"
    point = POINT.model_copy(update={"warnings": (warning,)})
    found = replace(found, scorecard=found.scorecard.model_copy(update={"operating_point": point}))
    assert "The threshold was chosen on these very cases." in seen(render(found))


def test_curves_and_certificate(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    steps = [{"event": "step", "step": n, "epoch": 1 + n // 5, "loss": 2.0 / n} for n in range(1, 11)]
    epochs = [{"event": "epoch", "epoch": n, "train_loss": 1.0 / n, "val_loss": 1.5 / n} for n in (1, 2)]
    (adapter / "metrics.jsonl").write_text("\n".join(map(json.dumps, [*steps, *epochs])))
    rung = {"number": 4, "name": "logits", "status": "passed", "error": 1e-7, "tolerance": 1e-5}
    certificate = {"passed": True, "model": "a/b", "adapter": "noise", "rungs": [rung], "made": "2026-01-02"}
    (adapter / "certificate.json").write_text(json.dumps(certificate))
    run = usual(tmp_path, adapter=str(adapter))
    html = render(evidence(run))
    assert "Training curves over 10 updates" in html
    assert "2 0.5 0.75 n/a" in seen(html)
    assert "✓ Every rung holds: b with adapter noise" in seen(html)
    assert "4. logits ✓ passed 1.0e-07 1.0e-05" in seen(html)
    (adapter / "metrics.jsonl").write_text("{")
    (adapter / "certificate.json").write_text("[]")
    text = seen(render(evidence(run)))
    assert "metrics.jsonl is damaged" in text
    assert "certificate.json is not of the form" in text


def test_a_fused_model_that_was_trained_on_these_cases(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    run = usual(tmp_path, model=str(model))
    assert "trained on these very cases" not in seen(render(evidence(run)))
    own = {"train": {"sha256": evidence(run).about["split_sha256"]}}
    (model / "mlx_medlora.json").write_text(json.dumps({"adapter": {"data": {"splits": own}}}))
    text = seen(render(evidence(run)))
    assert text.index("trained on these very cases") < text.index("Verdict")


def test_what_an_adapter_without_a_record_was_trained_on_is_not_known(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    run = usual(tmp_path, adapter=str(adapter))
    wanted = "What the adapter was trained on is not known: it may have been these very cases."
    assert wanted in seen(render(evidence(run)))
    (adapter / "run.json").write_text(json.dumps({"data": {"train": {"sha256": "others"}}}))
    assert wanted not in seen(render(evidence(run)))


@pytest.mark.parametrize(
    ("known", "shown"),
    [({}, True), ({"fingerprint": "f1", "source_fingerprint": "f0"}, True), ({"fingerprint": "f1"}, False)],
)
def test_a_certificate_of_another_model_is_not_shown(
    tmp_path: Path, known: dict[str, str], shown: bool
) -> None:
    run = usual(tmp_path, **known)
    told = {"passed": True, "model": "a/b", "adapter": "noise", "rungs": [], "fingerprint": "f0"}
    (run / "certificate.json").write_text(json.dumps(told))
    text = seen(render(evidence(run)))
    assert ("✓ Every rung holds" in text) == shown
    assert ("certificate.json is of another model (b) and is left out" in text) != shown


def test_a_comparison(tmp_path: Path) -> None:
    run = usual(tmp_path)
    data = tmp_path / "data"
    other = write_run(tmp_path / "other", data, [0.9] * 60)
    comparison = compare([read_run(other), read_run(run)])
    html = render(gather(read_run(run), comparison=comparison))
    pair = comparison.pairs[0]
    text = seen(html)
    assert pair.sentence in text
    assert f"{100 * (pair.difference.value or 0):+.1f} points" in text
    changes = {one["id"]: one.get("change") for one in rows(html)}
    assert {name for name, change in changes.items() if change == "won"} == set(pair.won)
    assert {name for name, change in changes.items() if change == "lost"} == set(pair.lost)
    assert pair.won
    assert pair.lost
    write_comparison(run / "comparison.json", comparison.model_copy(update={"split_sha256": "another"}))
    assert "Compared with other runs" not in render(evidence(run))


def test_a_comparison_carries_each_run_s_warnings(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    run = usual(tmp_path, adapter=str(adapter))
    other = write_run(tmp_path / "other", tmp_path / "data", [0.9] * 60)
    sha = read_run(run).scorecard.about["split_sha256"]
    (adapter / "run.json").write_text(json.dumps({"data": {"val": {"sha256": sha}}}))
    comparison = compare([read_run(other), read_run(run)])
    html = render(gather(read_run(run), comparison=comparison))
    text = seen(html)
    said = "! run : these very cases chose the adapter's epoch: new cases will do worse;"
    assert text.index("Compared with other runs") < text.index(said)
    assert f"{comparison.pairs[0].sentence}" in text
    assert "The test knows nothing of the warnings on run" in text
    redacted = seen(render(gather(read_run(run), comparison=comparison), Options(redact=True)))
    assert said in redacted


def test_a_map_outside_the_run_is_not_taken(tmp_path: Path) -> None:
    run = usual(tmp_path)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (run / "own.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    shown = [{"id": "a", "path": path} for path in ("../secret.png", "own.svg", "gone.png")]
    (run / "dependence.json").write_text(json.dumps({"verdict": "v", "looks": True, "occlusion": shown}))
    html = render(evidence(run))
    assert html.count('class="picture"') == 1
    assert "alert(1)" not in html  # inside an image's own address, where no script runs
    assert "data:image/svg+xml;base64," in html
