"""What the page says, against the scorecard; what it leaves out; the file it is."""

from __future__ import annotations

import json
import re
import stat
from html import unescape
from pathlib import Path

import pytest
from pages import evidence, rows, seen
from runs import row, usual, write_dataset, write_run

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.comparing import compare, write_comparison
from mlx_medlora.evaluation.gate import Gate
from mlx_medlora.evaluation.runs import read_heatmaps, read_run
from mlx_medlora.report import words
from mlx_medlora.report.heatmaps import SIGNS, maps
from mlx_medlora.report.page import render, write_page
from mlx_medlora.report.sources import Options, gather


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

    monkeypatch.setattr("mlx_medlora.atomic.os.replace", fail)
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
