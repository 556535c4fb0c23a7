"""The heatmaps as pictures: every cell's verdict, figure, interval and n are there without colour."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mlx_medlora.evaluation.results import GateResult, Heatmaps, Verdict
from mlx_medlora.report.heatmaps import MOST, Map, maps, paint, write_heatmaps


def cell(
    modality: str | None, verdict: Verdict, *, n: int = 50, measure: str = "tnr", **group: str
) -> GateResult:
    return GateResult(
        measure=measure,
        group=({} if modality is None else {"modality": modality}) | group or None,
        rule="at least 95 %",
        at_least=0.95,
        under=None,
        value=0.9 if n else None,
        interval=(0.812, 0.95) if n else None,
        n=n,
        verdict=verdict,
        reason="",
        needed=None,
    )


def texts(found: Map) -> list[str]:
    figure = Figure(figsize=found.size, layout="constrained")
    paint(figure, found)
    axes = figure.axes[0]
    return [text.get_text() for text in [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels()]]


@pytest.fixture
def both() -> Heatmaps:
    return Heatmaps(
        by_metric=[cell("xray", "pass"), cell("mri", "undecided"), cell(None, "fail", n=100)],
        by_error_type=[
            cell("xray", "pass", error_type="dose"),
            cell("xray", "undecided", n=0, error_type="none"),
        ],
    )


def test_cells_are_readable_without_colour(both: Heatmaps) -> None:
    metric, kinds = maps(both)
    said = texts(metric)
    assert "✓ pass\n90.0 %, n = 50\n(81.2-95.0)" in said
    assert "? undecided\n90.0 %, n = 50\n(81.2-95.0)" in said
    assert "✗ fail\n90.0 %, n = 100\n(81.2-95.0)" in said
    assert "TNR: errors found\nat least 95 %" in said
    assert said[-3:] == ["xray", "mri", "all"]
    assert "no cases" in texts(kinds)
    assert "mri, TNR: errors found: undecided, 90.0 %, n = 50 (81.2-95.0)" in metric.alt
    figure = Figure(figsize=metric.size)
    paint(figure, metric)
    boxes = {box.get_y() + 0.46: box for box in figure.axes[0].patches}
    assert [boxes[row].get_hatch() for row in (0, 1, 2)] == [None, "////", None]
    assert boxes[2].get_linewidth() > 2 > boxes[0].get_linewidth()


def test_what_is_no_share_has_no_percent() -> None:
    mcc = cell("xray", "undecided", measure="mcc").model_copy(update={"value": 0.735, "rule": "at least 0.8"})
    few = cell("mri", "pass").model_copy(update={"value": 2500 / 2501})
    (only,) = maps(Heatmaps(by_metric=[mcc, few], by_error_type=[]))
    said = texts(only)
    assert "? undecided\n0.735, n = 50\n(0.812 to 0.950)" in said
    assert "✓ pass\n> 99.9 %, n = 50\n(81.2-95.0)" in said


def test_a_cell_of_several_gates_says_its_own() -> None:
    strict = cell("mri", "fail").model_copy(update={"rule": "at least 99 %"})
    whole = cell(None, "pass").model_copy(update={"rule": "at least 50 %"})
    (only,) = maps(Heatmaps(by_metric=[cell("xray", "pass"), strict, whole], by_error_type=[]))
    said = texts(only)
    assert "✗ fail\n90.0 %, n = 50\n(81.2-95.0)\nat least 99 %" in said
    assert "TNR: errors found\nthe gate stands in each cell\n(all: at least 50 %)" in said
    assert "mri, TNR: errors found: fail, 90.0 %, n = 50 (81.2-95.0) at least 99 %" in only.alt


def test_a_modality_named_all_is_not_the_total() -> None:
    (only,) = maps(
        Heatmaps(
            by_metric=[cell("all", "fail", n=2), cell("xray", "pass"), cell(None, "pass", n=52)],
            by_error_type=[],
        )
    )
    assert [only.label(row) for row in only.rows] == ["all", "xray", "all together"]
    assert [only.cells[row, "tnr"].n for row in only.rows] == [2, 50, 52]
    assert texts(only)[-3:] == ["all", "xray", "all together"]


def test_files_are_the_same_each_time(both: Heatmaps, tmp_path: Path) -> None:
    files = write_heatmaps(tmp_path / "a" / "b", both)
    again = write_heatmaps(tmp_path / "c", both)
    names = [f"modality_{name}.{kind}" for name in ("metric", "error_type") for kind in ("svg", "png")]
    assert [file.name for file in files] == names
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(files, again, strict=True))
    for file in files:
        if file.suffix == ".svg":
            assert ElementTree.parse(file).getroot().tag.endswith("svg")
        else:
            grey = np.asarray(Image.open(file).convert("L"))
            assert grey.shape[1] > 300
            assert (grey < 60).any()


def test_hostile_and_many_names_are_drawn(tmp_path: Path) -> None:
    names = [r"$\frac{1$", "</svg><script>", "\u202e\x00", "x" * 300, *(f"m{n}" for n in range(20)), None]
    found = Heatmaps(by_metric=[cell(name, "pass") for name in names], by_error_type=[])
    (only,) = maps(found)
    assert (len(only.rows), only.rows[-1], only.left_out) == (MOST, None, len(names) - MOST)
    write_heatmaps(tmp_path, found)
    drawn = (tmp_path / "modality_metric.svg").read_text()
    assert "<script>" not in drawn
    assert maps(Heatmaps(by_metric=[], by_error_type=[])) == []
