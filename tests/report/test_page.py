"""What the page says, against the scorecard; what it leaves out; the file it is."""

from __future__ import annotations

import json
import re
import shutil
import stat
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from runs import row, usual, write_dataset, write_run

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.comparing import compare, write_comparison
from mlx_medlora.evaluation.gate import Gate
from mlx_medlora.evaluation.results import AppliedPoint, Measure
from mlx_medlora.evaluation.runs import read_heatmaps, read_run
from mlx_medlora.report import words
from mlx_medlora.report.heatmaps import SIGNS, maps
from mlx_medlora.report.page import render, write_page
from mlx_medlora.report.sources import Evidence, Options, gather


def evidence(run: Path) -> Evidence:
    return gather(read_run(run))


def seen(html: str) -> str:
    """The words of a page outside its script and styles."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", bare)).replace("\xa0", " "))


def rows(html: str) -> list[dict[str, Any]]:
    """The cases that the page's script reads."""
    found = re.search(r'<script type="application/json" id="case-data">(.*?)</script>', html, flags=re.S)
    assert found is not None
    return json.loads(found[1])["rows"]


def test_the_numbers_are_the_scorecard_s(tmp_path: Path) -> None:
    run = usual(tmp_path)
    found = evidence(run)
    html = render(found)
    card = found.scorecard
    for name, one in card.measures.items():
        cells = re.search(rf'<tr data-measure="{name}">(.*?)</tr>', html, flags=re.S)
        assert cells is not None
        said = seen(cells[1])
        assert one.value is not None
        value = f"{one.value:.3f}" if name in words.RATES else f"{100 * one.value:.1f} %"
        assert value in said
        if one.interval is not None:
            scale, places = (1, 3) if name in words.RATES else (100, 1)
            low, high = one.interval
            assert f"{scale * low:.{places}f} to {scale * high:.{places}f}" in said
        if one.count is not None:
            assert f"{one.count} of {one.n}" in said
    text = seen(html)
    assert card.gates is not None
    for gate in card.gates.gates:
        assert f"{words.demand(gate.measure)} {gate.rule}" in text
        assert gate.verdict in text
    for name, scores in card.by_modality.items():
        assert scores.accuracy is not None
        [gate] = [one for one in card.gates.gates if one.group == {"modality": name}]
        sign = words.SYMBOLS[gate.verdict]
        assert f"{name} {scores.n} {sign} {100 * scores.accuracy:.1f} %" in text
    missed = [one for one in card.misses.rows if one.ids]
    assert missed[0].severity == "critical"
    assert "1 of 8 (12.5 %)" in text
    assert text.index("Verdict") < text.index("Errors not found") < text.index("AUROC")
    assert "Research use only. Not a medical device." in text


def test_every_case_is_there_with_its_answer(tmp_path: Path) -> None:
    found = evidence(usual(tmp_path))
    given = rows(render(found))
    assert [one["id"] for one in given] == [one.id for one in found.predictions]
    for one, prediction in zip(given, found.predictions, strict=True):
        assert one["p"] == prediction.p_error
        assert (one["label"], one["said"]) == (prediction.label, prediction.predicted)
        assert one["input"] == found.cases[prediction.id].input
        assert one["right"] == found.cases[prediction.id].output
        assert (one["outcome"] in ("found", "valid")) == prediction.correct
        assert len(one["images"]) == 1
    assert [one["id"] for one in given if one["near"]] == ["case_0010"]


@pytest.mark.parametrize(
    ("labels", "p_error"),
    [
        (["ERROR"], [0.9]),
        (["CORRECT"], [0.9]),
        (["CORRECT"] * 6, [0.1] * 6),
        (["ERROR"] * 3, [0.2] * 3),
        (["ERROR", "CORRECT"] * 3, [None] * 6),
        (["ERROR", "CORRECT"] * 3, [0.5] * 6),
    ],
    ids=["one case", "one valid case", "only valid", "only errors", "all unreadable", "all ties"],
)
@pytest.mark.parametrize("redact", [False, True])
def test_no_figure_is_a_riddle(
    labels: list[str], p_error: list[float | None], redact: bool, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", [row(number, label) for number, label in enumerate(labels)])
    run = write_run(tmp_path / "run", data, p_error, generated=None in p_error)
    html = render(evidence(run), Options(redact=redact))
    for riddle in ("NaN", "nan", "None", "inf", "undefined", "null", "{{", "{%"):
        assert not re.search(rf"(?<![\w-]){re.escape(riddle)}(?![\w-])", seen(html))
    assert "n/a" in seen(html)
    assert "NaN" not in html.split('id="case-data">')[-1].split("</script>")[0]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = usual(tmp_path)
    sizes = {write_page(tmp_path / name, evidence(run)) for name in ("a.html", "b.html")}
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sizes == {(tmp_path / "a.html").stat().st_size}
    assert stat.S_IMODE((tmp_path / "a.html").stat().st_mode) == 0o600


def test_a_page_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = evidence(usual(tmp_path))
    page = tmp_path / "page.html"
    page.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("mlx_medlora.files.os.replace", fail)
    with pytest.raises(InputError, match="cannot write"):
        write_page(page, found)
    assert page.read_text() == "before"
    assert [path.name for path in tmp_path.glob("*.partial")] + [*tmp_path.glob(".*.partial")] == []


def test_redacted(tmp_path: Path) -> None:
    base = usual(tmp_path / "base")
    marks = [
        row(number, "ERROR" if number % 2 else "CORRECT", patient_id=f"SECRET-patient-{number}")
        | {"id": f"SECRET-id-{number}", "input": f"SECRET-words {number}"}
        | {"metadata": {"modality": "xray", "ward": f"SECRET-ward-{number % 3}"}}
        for number in range(30)
    ]
    data = write_dataset(tmp_path / "SECRET-data", marks)
    gates = [
        Gate(measure="accuracy", at_least=0.9, each="ward"),
        Gate(measure="accuracy", at_least=0.9, only={"ward": "SECRET-ward-gone"}),
    ]
    run = write_run(tmp_path / "run", data, [0.4] * 30, by=["ward"], gates=gates)
    other = write_run(tmp_path / "other", data, [0.6] * 30, by=["ward"])
    write_comparison(run / "comparison.json", compare([read_run(other), read_run(run)]))
    told = {"verdict": "It looks.", "looks": True, "sentences": ["case SECRET-id-3 changed"]}
    told["occlusion"] = [
        {"id": "SECRET-id-3", "svg_or_png_path": "<svg xmlns='http://www.w3.org/2000/svg'/>"}
    ]
    (run / "dependence.json").write_text(json.dumps(told))
    open_page, closed = (render(evidence(run), Options(redact=redact)) for redact in (False, True))
    for mark in ("id-3", "words", "patient", "ward-2", "ward-gone", "data"):
        assert f"SECRET-{mark}" in open_page
    assert "SECRET" not in closed
    assert "data:image" not in closed
    assert "<script" not in closed
    assert "Redacted" in seen(closed)
    assert "15 won" in seen(closed) or "15 lost" in seen(closed)
    assert "SECRET" not in render(evidence(base), Options(redact=True))


def test_a_gate_on_a_figure_that_is_no_share(tmp_path: Path) -> None:
    marks = [row(number, "ERROR" if number % 2 else "CORRECT") for number in range(20)]
    p_error = [0.9 if number % 2 else 0.1 for number in range(20)]
    gates = [Gate(measure="auroc", at_least=0.8)]
    run = write_run(tmp_path / "run", write_dataset(tmp_path / "data", marks), p_error, gates=gates)
    text = seen(render(evidence(run)))
    assert "AUROC at least 0.8 all cases" in text
    assert re.search(r"AUROC at least 0\.8 all cases \S+ pass 1\.000 \d\.\d{3} to 1\.000 20", text)


def test_without_images(tmp_path: Path) -> None:
    found = evidence(usual(tmp_path))
    with_them, without = render(found), render(found, Options(images=False))
    assert "data:image/webp" in with_them
    assert "data:image" not in without
    assert "No images." in seen(without)
    assert "Every case's images, made smaller." in seen(with_them)
    assert len(rows(without)) == 60


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
    point = AppliedPoint(
        temperature=1.0,
        threshold=0.5,
        rule="max-false-flag",
        limit=0.05,
        split="test",
        split_sha256="a",
        n=60,
        same_cases=True,
    )
    found = evidence(run)
    found = replace(found, scorecard=found.scorecard.model_copy(update={"operating_point": point}))
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


def test_answers_to_other_cases_are_not_put_beside_these(tmp_path: Path) -> None:
    run = usual(tmp_path)
    path = run / "predictions.jsonl"
    path.write_text(path.read_text().replace("case_0003", "case_x", 1))
    found = evidence(run)
    assert found.absent is not None
    assert "answer 4 is to a case that the split 'test' does not have" in found.absent


def test_warnings_of_the_operating_point_are_sentences(tmp_path: Path) -> None:
    found = evidence(usual(tmp_path))
    point = AppliedPoint(
        temperature=1.0, threshold=0.5, rule="max-false-flag", limit=0.05, split="test", split_sha256="a",
        n=60, same_cases=True, warnings=("the threshold was chosen on these very cases",),
    )  # fmt: skip
    found = replace(found, scorecard=found.scorecard.model_copy(update={"operating_point": point}))
    assert "The threshold was chosen on these very cases." in seen(render(found))


def test_its_directory_is_made(tmp_path: Path) -> None:
    found = evidence(usual(tmp_path))
    assert write_page(tmp_path / "new" / "place" / "page.html", found)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write") as error:
        write_page(tmp_path / "file" / "page.html", found)
    assert "partial" not in str(error.value)


def test_the_embedded_model_is_called_a_toy(tmp_path: Path) -> None:
    assert "toy" not in seen(render(evidence(usual(tmp_path / "a"))))
    assert "toy" in seen(render(evidence(usual(tmp_path / "b", model="x/tiny-medgemma"))))


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


def test_the_policy_names_the_script_and_the_style(tmp_path: Path) -> None:
    html = render(evidence(usual(tmp_path)))
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1])  # type: ignore[index]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(
        r"""\sstyle=["']|\son\w+=["']""", re.sub(r"<script.*?</script>", "", html, flags=re.S)
    )
    assert "http://" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", html)
    assert "https://" not in html


def test_heatmaps_are_on_the_page(tmp_path: Path) -> None:
    run = usual(tmp_path)
    found = read_heatmaps(run)
    page = render(gather(read_run(run)))
    for one in maps(found):
        assert one.title in page
        assert f'aria-label="{one.alt}"' in page
    assert "TNR: errors found" in page
    for cell in found.by_metric:
        assert SIGNS[cell.verdict] in page
    assert 'style="' not in page
    (run / "heatmaps.json").unlink()
    assert "against the gates on TNR" not in render(gather(read_run(run)))
