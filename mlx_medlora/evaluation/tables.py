"""Scorecards, gates and comparisons as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from mlx_medlora.evaluation.gate import title
from mlx_medlora.evaluation.meanings import CARD_KEYS, MEANINGS
from mlx_medlora.evaluation.results import (
    Calibration,
    Comparison,
    GateReport,
    Measure,
    Misses,
    Scorecard,
    Scores,
)
from mlx_medlora.evaluation.shown import NO_SHARES, bounds, ranged
from mlx_medlora.percent import percent as shown_percent
from mlx_medlora.percent import places

MORE = ("balanced_accuracy", "ppv", "npv", "f1", "mcc", "auroc", "auprc")


def percent(value: float | None) -> str:
    """0.9 -> `90.0 %`; None -> `no cases`."""
    return "no cases" if value is None else shown_percent(value)


def with_interval(value: float | None, interval: tuple[float, float] | None, count: int, n: int) -> str:
    """`90.0 % (81.2-95.0), 36 of 40`."""
    if value is None or interval is None:
        return "no cases"
    return f"{percent(value)} ({bounds(interval)}), {count} of {n}"


def figure(found: Measure) -> str:
    """A measure with its interval and counts, or why there is none."""
    if found.value is None:
        return found.reason or "none"
    if found.count is not None:
        return with_interval(found.value, found.interval, found.count, found.n)
    return ranged(found.value, found.interval, share=found.name not in NO_SHARES)


def scorecard_table(cards: Mapping[str, Scorecard], *, more: bool = False) -> Table:
    """One column a scorecard: accuracy, the card's three rates, unreadable answers, each group's accuracy.

    `more` adds the other figures, and the groups beside the modality.
    """
    table = Table(title="Share (95 % interval), count", title_justify="left", title_style="")
    table.add_column("measure")
    for name in cards:
        table.add_column(name)
    table.add_row("accuracy", *(accuracy(card) for card in cards.values()))
    for key, name in CARD_KEYS.items():
        rates = (getattr(card, key) for card in cards.values())
        meaning = MEANINGS[name].partition("the share of ")[2]
        table.add_row(f"{key.upper()}: {meaning}", *(figure(rate) for rate in rates))
    for name in MORE if more else ():
        table.add_row(name.replace("_", " "), *(figure(card.measures[name]) for card in cards.values()))
    table.add_row(
        "unreadable answers (counted wrong)",
        *(figure(card.measures["invalid_rate"]) for card in cards.values()),
        end_section=True,
    )
    fields = dict.fromkeys(field for card in cards.values() for field in card.by) if more else ("modality",)
    for field in fields:
        _group_rows(table, field, cards)
    return table


def _group_rows(table: Table, field: str, cards: Mapping[str, Scorecard]) -> None:
    """The accuracy of each group."""
    names = dict.fromkeys(name for card in cards.values() for name in card.by.get(field, {}))
    prefix = "" if field == "modality" else f"{field.replace('_', ' ')}: "
    for place, name in enumerate(names, start=1):
        groups = (card.by.get(field, {}).get(name) for card in cards.values())
        cells = ("no cases" if group is None else accuracy(group) for group in groups)
        table.add_row(f"{prefix}{name}", *cells, end_section=place == len(names))


def calibration_line(found: Calibration) -> str:
    """`ECE 0.031 (0.000 to 0.060), Brier 0.050 (0.030 to 0.070), log loss 0.200 (0.150 to 0.260)`."""
    figures = {
        "ECE": (found.ece, found.ece_interval),
        "Brier": (found.brier.value or 0.0, found.brier.interval),
        "log loss": (found.log_loss, found.log_loss_interval),
    }
    return ", ".join(f"{name} {ranged(*pair, share=False)}" for name, pair in figures.items())


def misses_table(found: Misses) -> Table:
    """Errors that were not found, the gravest first."""
    table = Table(title="Errors not found, by severity", title_justify="left", title_style="")
    for name in ("severity", "not found", "cases"):
        table.add_column(name)
    for row in found.rows:
        shown = ", ".join(row.ids[:5]) + (f" and {len(row.ids) - 5} more" if len(row.ids) > 5 else "")
        table.add_row(row.severity, figure(row.rate), shown)
    return table


def gates_table(report: GateReport) -> Table:
    """Each gate with its verdict and the figure behind it."""
    table = Table(title=f"Gates ({report.source}): {report.verdict}", title_justify="left", title_style="")
    for name in ("gate", "verdict", "figure", "cases it would take"):
        table.add_column(name)
    for gate in report.gates:
        shown = gate.reason
        if gate.value is not None:
            share = gate.measure not in NO_SHARES
            shown = ranged(gate.value, gate.interval, share=share) + f", n = {gate.n}"
        table.add_row(title(gate), gate.verdict, shown, "" if gate.needed is None else f"about {gate.needed}")
    return table


def comparison_table(found: Comparison) -> Table:
    """One row a run; each later one against the first."""
    table = Table(
        title=f"{found.n} cases, split {found.split}; each run against the first",
        title_justify="left",
        title_style="",
    )
    for name in ("run", "accuracy", "sensitivity", "specificity", "difference", "won", "lost", "p (Holm)"):
        table.add_column(name)
    pairs = {pair.second: pair for pair in found.pairs}
    for run in found.runs:
        figures = [_short(run.measures[name]) for name in ("accuracy", "sensitivity", "specificity")]
        pair = pairs.get(run.name)
        against = (
            ("", "", "", "")
            if pair is None
            else (_points(pair.difference), str(len(pair.won)), str(len(pair.lost)), f"{pair.p_adjusted:.3g}")
        )
        table.add_row(run.name, *figures, *against)
    return table


def _short(found: Measure) -> str:
    if found.value is None or found.interval is None:
        return "none"
    return f"{places(found.value)} ({bounds(found.interval)})"


def _points(found: Measure) -> str:
    value = 100 * (found.value or 0.0)
    if found.interval is None:
        return f"{value:+.1f} (no interval)"
    return f"{value:+.1f} ({100 * found.interval[0]:+.1f} to {100 * found.interval[1]:+.1f})"


def accuracy(scores: Scores) -> str:
    """Accuracy with its interval and counts."""
    return with_interval(scores.accuracy, scores.accuracy_interval, scores.correct, scores.n)
