"""Errors that were not found, by severity: a missed critical error stands first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import resample, spread
from mlx_medlora.evaluation.intervals import LEVEL, Interval, kish, wilson_effective
from mlx_medlora.evaluation.results import Measure, Misses, MissRow, Prediction
from mlx_medlora.evaluation.shares import share_interval, surest, union
from mlx_medlora.evaluation.tally import Floats, Tally

# Our choice, each grave step counting twice the one before; no guideline stands behind it.
WEIGHTS = {"critical": 8.0, "high": 4.0, "moderate": 2.0, "low": 1.0, "none": 1.0}

RATE = "the share of errors of this severity that were not found"
WEIGHTED = (
    "the share of errors that were not found, each counted by its severity: "
    + ", ".join(f"{name} {weight:g}" for name, weight in WEIGHTS.items())
    + " (weights of this toolkit, not of a guideline)"
)


def misses(predictions: Sequence[Prediction]) -> Misses:
    """The table of missed errors, and their weighted rate."""
    errors = [p for p in predictions if p.label == "ERROR"]
    present = {p.severity for p in errors}
    order = [name for name in WEIGHTS if name in present] + sorted(present - set(WEIGHTS))
    rows = [_row(name, [p for p in errors if p.severity == name]) for name in order]
    return Misses(rows=rows, weighted=_weighted(errors))


def _row(severity: str, errors: Sequence[Prediction]) -> MissRow:
    tally = Tally.of(errors)
    counts = tally.counts()
    missed, unreadable = int(counts[1]), int(counts[2])
    enough = tally.repeated and tally.patients >= bootstrap.LEAST
    drawn = bootstrap.resampled_counts(tally) if enough else None
    interval, method = share_interval(tally, [1, 2], [0, 1, 2], drawn)
    rate = Measure(
        name="miss_rate",
        value=(missed + unreadable) / len(errors),
        n=len(errors),
        count=missed + unreadable,
        interval=interval,
        interval_method=method,
        meaning=RATE,
    )
    return MissRow(
        severity=severity,
        weight=_weight(severity),
        errors=len(errors),
        missed=missed,
        unreadable=unreadable,
        rate=rate,
        ids=[p.id for p in errors if not p.correct],
    )


def _weight(severity: str) -> float:
    return WEIGHTS.get(severity, 1.0)


def _weighted(errors: Sequence[Prediction]) -> Measure:
    named = {"name": "weighted_miss_rate", "n": len(errors), "meaning": WEIGHTED}
    if not errors:
        return Measure.model_validate(
            named | {"value": None, "reason": "no wrong treatments among the cases"}
        )
    tally = Tally.of(errors)
    weight = np.array([_weight(p.severity) for p in errors])
    lost = np.array([0.0 if p.correct else 1.0 for p in errors])
    value = float((weight * lost).sum() / weight.sum())
    sums: Floats = np.stack(
        [np.bincount(tally.patient, part, minlength=tally.patients) for part in (weight * lost, weight)],
        axis=1,
    )  # (K, 2)
    interval, method = _weighted_interval(tally, weight, value, sums)
    return Measure.model_validate(
        named | {"value": value, "interval": interval, "interval_method": method, "count": None}
    )


def _weighted_interval(tally: Tally, weight: Floats, value: float, sums: Floats) -> tuple[Interval, str]:
    """The percentile bootstrap, no surer than Wilson's of as many errors as the weights are worth (Kish).

    With both, one more missed error never betters a bound: where none was missed resamples say nothing, and
    where one slight error was missed they say too little of the grave ones.
    """
    patients = kish(sums[:, 1])
    if tally.repeated and tally.patients < bootstrap.LEAST:
        return wilson_effective(value, patients), "Wilson of as many patients as the weights are worth (Kish)"
    parts = [wilson_effective(value, kish(weight))]
    method = "Wilson of as many cases as the weights are worth (Kish)"
    if tally.patients >= bootstrap.LEAST:
        drawn = spread(resample(tally, lambda drawn: _ratio(drawn @ sums)), LEVEL, patients)
        if drawn is not None:
            parts, method = [*parts, drawn], f"bootstrap, at least {method}"
    if tally.repeated:
        parts.append(surest(patients))
    return union(*parts), method


def _ratio(pair: Floats) -> Floats:
    return pair[:, 0] / pair[:, 1]
