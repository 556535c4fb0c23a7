"""The page's drawings. Each has a text alternative, and its numbers stand in a table beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from mlx_medlora.evaluation.results import Calibration
from mlx_medlora.evaluation.results.measures import Interval
from mlx_medlora.report.beside import Point
from mlx_medlora.report.svg import ACCENT, BAD, MUTED, Sheet, drawing, inline
from mlx_medlora.report.words import percent, short, span


@dataclass(frozen=True)
class Bar:
    """One row of an interval chart; `limits` are the gates on it."""

    label: str
    value: float
    interval: Interval | None
    limits: tuple[float, ...] = ()


def intervals(bars: Sequence[Bar], name: str, what: str, sheet: Sheet) -> Markup | None:
    """Shares with their intervals, one a row, and the gates as dashes; None without any."""
    if not bars:
        return None
    said = "; ".join(f"{bar.label} {percent(bar.value)} ({span(bar.interval)})" for bar in bars[:30])
    with drawing(7.6, 0.8 + 0.32 * len(bars)) as figure:
        axes = figure.add_subplot()
        for row, bar in enumerate(bars):
            if bar.interval is not None:
                low, high = (100 * bound for bound in bar.interval)
                axes.plot([low, high], [row, row], color=ACCENT, linewidth=2.5, solid_capstyle="butt")
            axes.plot([100 * bar.value], [row], "o", color=ACCENT, markersize=7, clip_on=False)
            for limit in bar.limits:
                axes.plot([100 * limit] * 2, [row - 0.42, row + 0.42], color=BAD, linewidth=2, dashes=(2, 1))
        axes.set_yticks(range(len(bars)), [short(bar.label, 34) for bar in bars])
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("%   (line: 95 % interval; dashes: gate)")
        axes.grid(axis="x", linewidth=0.7)
        axes.set_axisbelow(True)
        return inline(figure, name, f"{what}. {said}", sheet)


def reliability(found: Calibration, sheet: Sheet) -> Markup | None:
    """The reliability diagram: share of errors against the probability said, bin by bin."""
    bins = [one for one in found.bins if one.n and one.mean is not None and one.share is not None]
    if not bins:
        return None
    alt = "Reliability diagram; a calibrated model lies on the diagonal. " + "; ".join(
        f"said {percent(one.mean)}, true {percent(one.share)}, {one.n} cases" for one in bins
    )
    with drawing(5.2, 4.6) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, dashes=(4, 3))
        for one in bins:
            assert one.mean is not None
            assert one.share is not None
            x, y = 100 * one.mean, 100 * one.share
            if one.interval is not None:
                axes.plot([x, x], [100 * bound for bound in one.interval], color=ACCENT, linewidth=1.5)
            axes.plot([x], [y], "o", color=ACCENT, markersize=6, clip_on=False)
            axes.text(50 * (one.low + one.high), 103, str(one.n), fontsize=8, color=MUTED, ha="center")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.text(-3, 103, "n", fontsize=8, color=MUTED, ha="right")
        axes.set_xlabel("probability of ERROR the model said, %")
        axes.set_ylabel("share that were errors, %")
        axes.grid(linewidth=0.7)
        return inline(figure, "reliability", alt, sheet)


def losses(curve: Sequence[Point], sheet: Sheet) -> Markup | None:
    """Loss of each update, and of each epoch on training and validation cases; None without updates."""
    steps = [
        (one.step, one.loss, one.epoch) for one in curve if one.step is not None and one.loss is not None
    ]
    if not steps:
        return None
    ends = {epoch: step for step, _, epoch in steps}  # the last update of each epoch
    epochs = [one for one in curve if one.event == "epoch"]
    lines = {
        "training, mean of the epoch": [(ends.get(e.epoch), e.train_loss) for e in epochs],
        "validation": [(ends.get(e.epoch, 0 if e.epoch == 0 else None), e.val_loss) for e in epochs],
    }
    alt = f"Training curves over {len(steps)} updates. " + "; ".join(
        f"{label}: {', '.join(f'{y:.4g} after update {x}' for x, y in _known(points))}"
        for label, points in lines.items()
        if _known(points)
    )
    with drawing(7.6, 3.6) as figure:
        axes = figure.add_subplot()
        shown = _thinned(steps)
        axes.plot(
            [x for x, _, _ in shown],
            [y for _, y, _ in shown],
            color=MUTED,
            linewidth=0.8,
            label="each update",
        )
        for (label, points), style in zip(lines.items(), (("s", BAD, "--"), ("o", ACCENT, "-")), strict=True):
            marker, colour, dash = style
            known = _known(points)
            if known:
                axes.plot(*zip(*known, strict=True), dash, marker=marker, color=colour, label=label)
        axes.set_xlabel("update")
        axes.set_ylabel("loss, mean over supervised tokens")
        axes.set_ylim(bottom=0)
        axes.grid(linewidth=0.7)
        axes.legend(frameon=False)
        return inline(figure, "losses", alt, sheet)


def _known(points: Sequence[tuple[int | None, float | None]]) -> list[tuple[int, float]]:
    return [(x, y) for x, y in points if x is not None and y is not None]


def _thinned(steps: Sequence[tuple[int, float, int]], most: int = 1000) -> Sequence[tuple[int, float, int]]:
    """Every so many updates, so that a long run does not swell the page."""
    return steps[:: max(1, -(-len(steps) // most))]
