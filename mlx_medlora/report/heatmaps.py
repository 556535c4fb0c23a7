"""Modality by metric and modality by error type, held against the gates; readable without colour.

Each cell says its verdict in a word and a sign, the figure, its interval and how many cases it rests on.
What passes is plain, what is undecided is hatched, what fails has a thick frame.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlx_medlora.evaluation.results import GateResult, Heatmaps
from mlx_medlora.evaluation.results.suite import ALL
from mlx_medlora.evaluation.shown import NO_SHARES, amount, bounds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#111111"  # not the page's ink, which turns light on dark screens: the fills stay pale
FILLS = {"pass": "#bfe5cc", "fail": "#f3b8b0", "undecided": "#f4f1e4"}
SIGNS = {"pass": "✓ pass", "fail": "✗ fail", "undecided": "? undecided"}
NAMES = {
    "tpr": "TPR: valid treatments\nfound valid",
    "tnr": "TNR: errors found",
    "fpr": "FPR: valid treatments\nflagged",
    "none": "none: valid treatments\nfound valid",
}
MOST = 12  # rows, and columns; the page's tables have the others
_LONGEST = 24
Name = TypeVar("Name")


@dataclass(frozen=True)
class Map:
    """One heatmap: `rows` and `columns` by name, and the cells there are, by row and column.

    The row None is of all modalities together.
    """

    name: str
    title: str
    rows: list[str | None]
    columns: list[str]
    cells: dict[tuple[str | None, str], GateResult]
    left_out: int

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of its figure in inches."""
        return 1.6 + 1.75 * len(self.columns), 1.5 + 0.78 * len(self.rows)

    @property
    def alt(self) -> str:
        """Every cell in words, for whoever does not see it."""
        said = (
            f"{self.label(row)}, {_heading(column)}: {cell.verdict}, {' '.join(self.lines(row, column)[1:])}"
            for (row, column), cell in self.cells.items()
        )
        return f"{self.title}. " + "; ".join(" ".join(one.split()) for one in said)

    def label(self, row: str | None) -> str:
        """What stands beside a row; that of all together is never called as a modality is."""
        return _short(row) if row is not None else "all together" if ALL in self.rows else ALL

    def rules(self, column: str) -> list[str]:
        """The rules of the modalities' cells in a column."""
        found = (cell.rule for (row, name), cell in self.cells.items() if name == column and row is not None)
        return list(dict.fromkeys(found))

    def lines(self, row: str | None, column: str) -> list[str]:
        """A cell: its verdict, its figures, and its rule where the column has several."""
        cell = self.cells[row, column]
        ruled = row is not None and len(self.rules(column)) > 1
        return [SIGNS[cell.verdict], *_figures(cell), *([cell.rule] if ruled else [])]


def maps(found: Heatmaps) -> list[Map]:
    """Both heatmaps, those without a cell left out."""
    made = [
        _map("modality_metric", "Modality by metric, against the gates", found.by_metric, "measure"),
        _map(
            "modality_error_type",
            "Modality by error type: share found, against the gates on TNR and TPR",
            found.by_error_type,
            "error_type",
        ),
    ]
    return [one for one in made if one.cells]


def paint(figure: Figure, found: Map) -> None:
    """Draw one heatmap into an empty figure of its `size`."""
    axes = figure.add_subplot()
    for row, name in enumerate(found.rows):
        for column, heading in enumerate(found.columns):
            cell = found.cells.get((name, heading))
            lines = [] if cell is None else found.lines(name, heading)
            _cell(axes, column, row, cell, lines)
    axes.set_xlim(-0.5, len(found.columns) - 0.5)
    axes.set_ylim(len(found.rows) - 0.5, -0.5)
    _labels(axes, found)
    for spine in axes.spines.values():
        spine.set_visible(False)


def write_heatmaps(directory: Path, found: Heatmaps) -> list[Path]:
    """Write each heatmap as SVG and PNG into `directory`, which is made; return the files."""
    import matplotlib
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for one in maps(found):
        settings = {"text.parse_math": False, "svg.hashsalt": "mlx-medlora"}
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
            figure = Figure(figsize=one.size, layout="constrained")
            paint(figure, one)
            for suffix, told in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
                written.append(directory / f"{one.name}.{suffix}")
                figure.savefig(written[-1], dpi=130, facecolor="white", metadata=told)
    return written


def _map(name: str, title: str, cells: Sequence[GateResult], key: str) -> Map:
    placed: dict[tuple[str | None, str], GateResult] = {}
    for cell in cells:
        group = cell.group or {}
        placed[group.get("modality"), group.get(key, cell.measure)] = cell
    rows = list(dict.fromkeys(row for row, _ in placed))
    columns = list(dict.fromkeys(column for _, column in placed))
    shown, headed = _most(rows), _most(columns)
    kept = {place: cell for place, cell in placed.items() if place[0] in shown and place[1] in headed}
    return Map(name, title, shown, headed, kept, len(rows) - len(shown) + len(columns) - len(headed))


def _most(names: list[Name]) -> list[Name]:
    """The first of them and always the last, which is that of all."""
    return names if len(names) <= MOST else [*names[: MOST - 1], names[-1]]


def _cell(axes: Axes, x: int, y: int, cell: GateResult | None, lines: Sequence[str]) -> None:
    from matplotlib.patches import Rectangle

    corner = (x - 0.47, y - 0.46)
    if cell is None or cell.n == 0:
        axes.text(x, y, "no cases", ha="center", va="center", fontsize=8, color=INK)
        return
    failed, undecided = cell.verdict == "fail", cell.verdict == "undecided"
    box = Rectangle(
        corner,
        0.94,
        0.92,
        facecolor=FILLS[cell.verdict],
        edgecolor=INK if failed else "#8a8f98",
        linewidth=2.6 if failed else 0.8,
        hatch="////" if undecided else None,
    )
    if undecided:
        box.set_edgecolor("#b9b39b")  # the hatch's colour too: letters must stay readable on it
    axes.add_patch(box)
    behind = {"facecolor": FILLS[cell.verdict], "edgecolor": "none", "pad": 1.5}
    axes.text(
        x, y, "\n".join(lines), ha="center", va="center", fontsize=8, linespacing=1.25, color=INK, bbox=behind
    )


def _figures(cell: GateResult) -> list[str]:
    """`98.0 %, n = 100` and `(93.0-99.4)`; without percent where it is no share."""
    if cell.value is None:
        return [f"n = {cell.n}"]
    share = cell.measure not in NO_SHARES
    value = amount(cell.value, share=share)
    if cell.interval is None:
        return [value, f"n = {cell.n}"]
    return [f"{value}, n = {cell.n}", f"({bounds(cell.interval, share=share)})"]


def _labels(axes: Axes, found: Map) -> None:
    heads = [f"{_heading(column)}\n{_rule(found, column)}" for column in found.columns]
    axes.set_xticks(range(len(heads)), heads, fontsize=8, color=INK)
    axes.set_yticks(range(len(found.rows)), [found.label(name) for name in found.rows], fontsize=9, color=INK)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    note = "Hatched: the 95 % interval lies on both sides of the gate. Thick frame: it fails."
    if found.left_out:
        note += f" {found.left_out} more rows or columns are not shown."
    axes.set_title(found.title, fontsize=10, loc="left", color=INK)
    axes.set_xlabel(note, fontsize=8, loc="left", color=INK)


def _rule(found: Map, column: str) -> str:
    """What a column is held against: the modalities, and all together where that is another rule."""
    rules, whole = found.rules(column), found.cells.get((None, column))
    rule = rules[0] if len(rules) == 1 else "the gate stands in each cell"
    if whole is None or rules == [whole.rule]:
        return rule
    return f"{rule}\n({found.label(None)}: {whole.rule})" if rules else whole.rule


def _heading(name: str) -> str:
    return NAMES.get(name, _short(name.replace("_", " ")))


def _short(name: str) -> str:
    plain = "".join(letter if letter.isprintable() else "?" for letter in name)
    return plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 3]}..."
