"""Scorecards as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from mlx_medlora.evaluation.metrics import MEANINGS, Scorecard, Scores


def percent(value: float | None) -> str:
    """0.9 -> `90.0 %`; None -> `no cases`."""
    return "no cases" if value is None else f"{100 * value:.1f} %"


def with_interval(value: float | None, interval: tuple[float, float] | None, count: int, n: int) -> str:
    """`90.0 % (81.2-95.0), 36 of 40`."""
    if value is None or interval is None:
        return "no cases"
    low, high = (f"{100 * bound:.1f}" for bound in interval)
    return f"{percent(value)} ({low}-{high}), {count} of {n}"


def scorecard_table(cards: Mapping[str, Scorecard]) -> Table:
    """One column a scorecard; rows for accuracy, the three rates, unreadable answers, each modality."""
    table = Table(title="Share (95 % interval), count", title_justify="left", title_style="")
    table.add_column("measure")
    for name in cards:
        table.add_column(name)
    table.add_row("accuracy", *(accuracy(card) for card in cards.values()))
    for key, meaning in MEANINGS.items():
        rates = (getattr(card, key) for card in cards.values())
        cells = (with_interval(rate.value, rate.interval, rate.count, rate.n) for rate in rates)
        table.add_row(f"{key.upper()}: {_tail(meaning)}", *cells)
    table.add_row(
        "unreadable answers (counted wrong)",
        *(f"{percent(card.invalid_rate)}, {card.invalid} of {card.n}" for card in cards.values()),
        end_section=True,
    )
    for modality in sorted({name for card in cards.values() for name in card.by_modality}):
        groups = (card.by_modality.get(modality) for card in cards.values())
        table.add_row(modality, *("no cases" if group is None else accuracy(group) for group in groups))
    return table


def accuracy(scores: Scores) -> str:
    """Accuracy with its interval and counts."""
    return with_interval(scores.accuracy, scores.accuracy_interval, scores.correct, scores.n)


def _tail(meaning: str) -> str:
    return meaning.partition("the share of ")[2]
