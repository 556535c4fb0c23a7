"""Resampling patients, or cases where no patient has several: all resamples at once.

The percentile method (Efron and Tibshirani 1993, chapter 13) over whole patients (Davison and Hinkley 1997,
section 3.8): their cases stay together, so that what they share widens the interval.
Letters: B resamples, K patients, N cases, G distinct probabilities, 6 cells (see `tally.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from mlx_medlora.evaluation.intervals import LEVEL, Interval
from mlx_medlora.evaluation.tally import Bools, Floats, Tally

RESAMPLES = 2000
SEED = 0
LEAST = 20  # patients; a percentile interval of fewer is too narrow to be shown
LEAST_DEFINED = 0.95  # share of resamples in which a figure must exist
_AT_ONCE = 50_000  # weights at a time: they stay in the cache

FEW = f"fewer than {LEAST} patients or cases to resample"
FIXED = "every resample gives the same value, so that its spread cannot be told"
UNDEFINED = "it does not exist in more than 5 % of resamples: there are too few cases of a kind"


def weights(patients: int, resamples: int = RESAMPLES, seed: int = SEED) -> Iterator[Floats]:
    """Yield (b, K) times that each patient was drawn, b of B resamples at a time. A seed fixes the draws."""
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(patients, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, patients, (rows, patients))
        places = drawn + patients * np.arange(rows)[:, None]
        counted = np.bincount(places.reshape(-1), minlength=rows * patients)
        yield counted.reshape(rows, patients).astype(np.float64)


def resample(
    tally: Tally, statistic: Callable[[Floats], Floats], resamples: int = RESAMPLES, seed: int = SEED
) -> Floats:
    """(B, ...) values of `statistic`, which takes (b, K) weights of patients to b values (NaN: none)."""
    return np.concatenate([statistic(drawn) for drawn in weights(tally.patients, resamples, seed)])


def resampled_counts(tally: Tally, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """(B, 6) counts of resamples. Without repeated patients they are multinomial, and drawn as such."""
    if not tally.repeated:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(tally.n, tally.counts() / tally.n, size=resamples)
        return drawn.astype(np.float64)
    by_patient = tally.counts_by_patient().astype(np.float64)
    return resample(tally, lambda drawn: drawn @ by_patient, resamples, seed)


def percentile(
    values: Floats, level: float = LEVEL, units: float | None = None
) -> tuple[Interval | None, str | None]:
    """The interval of (B,) resampled values, or None and the reason.

    `units` is how many patients or cases were resampled, or are worth it: of few, a percentile interval
    is too narrow, and it is taken at a higher level (see `expanded`).
    """
    defined = values[np.isfinite(values)]
    if len(defined) < LEAST_DEFINED * len(values):
        return None, UNDEFINED
    if np.ptp(defined) < 1e-12:
        return None, FIXED
    wide = level if units is None else expanded(level, units)
    low, high = np.quantile(defined, [0.5 - wide / 2, 0.5 + wide / 2])
    return (float(low), float(high)), None


def spread(values: Floats, level: float, units: float) -> Interval | None:
    """`percentile` as a part of a union: a point where all resamples agree, None where undefined."""
    found, reason = percentile(values, level, units)
    if reason == FIXED:
        one = float(np.nanmedian(values))
        return one, one
    return found


def studentized(sums: Floats, sizes: Floats, level: float = LEVEL) -> tuple[Interval | None, str | None]:
    """The interval of `sums` (K,) over `sizes` (K,), both together, by the bootstrap-t; or None and why.

    Efron and Tibshirani 1993, section 12.5: resampled are distances from the value seen in standard errors
    (of a ratio, linearised), so that the long tail of a skewed quantity widens its side.
    """
    ratio, many = sums.sum() / sizes.sum(), len(sums)

    def error(drawn: Floats, of: Floats) -> Floats:
        squares = drawn @ sums**2 - 2 * of * (drawn @ (sums * sizes)) + of**2 * (drawn @ sizes**2)
        return np.sqrt(np.maximum(squares, 0) * many / (many - 1)) / (drawn @ sizes)

    seen = float(error(np.ones((1, many)), np.array([ratio]))[0])
    if seen < 1e-9 * max(abs(ratio), 1e-12):
        return None, FIXED
    distances = []
    for drawn in weights(many):
        value = (drawn @ sums) / (drawn @ sizes)
        with np.errstate(divide="ignore", invalid="ignore"):
            distances.append((value - ratio) / error(drawn, value))
    found, reason = percentile(np.concatenate(distances), level)
    if found is None:
        return None, reason
    return (float(ratio - found[1] * seen), float(ratio - found[0] * seen)), None


@lru_cache(maxsize=1000)
def expanded(level: float, units: float) -> float:
    """The level at which a percentile interval of `units` resampled units is as wide as Student's.

    Hesterberg 2015 (The American Statistician 69), the expanded percentile interval: a resampled spread is
    sqrt((units - 1) / units) too small, and normal where it should have Student's tails.
    """
    from scipy.stats import norm, t

    few = max(units, 2.0)
    reach = math.sqrt(few / (few - 1)) * float(t.ppf(0.5 + level / 2, few - 1))
    return float(2 * norm.cdf(reach) - 1)


class Ranking:
    """Areas under the ROC and the precision-recall curve of weighted cases, ties and all."""

    def __init__(self, error: Bools, p: Floats, patient: np.ndarray) -> None:
        order = np.argsort(p, kind="stable")
        self.error, self.patient = error[order].astype(np.float64), patient[order]
        ranked = p[order]
        self.starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # (G,) first case of each value

    def __call__(self, drawn: Floats) -> Floats:
        """(b, K) weights -> (b, 2) AUROC and average precision, NaN where a class was not drawn."""
        w = drawn[:, self.patient]  # (b, N), by rising probability
        errors = w * self.error
        valid = w - errors
        if len(self.starts) < len(self.error):  # ties: (b, G)
            errors, valid = (np.add.reduceat(part, self.starts, axis=1) for part in (errors, valid))
        errors_to, valid_to = np.cumsum(errors, axis=1), np.cumsum(valid, axis=1)  # whole numbers: exact
        all_errors, all_valid = errors_to[:, -1], valid_to[:, -1]
        found = all_errors[:, None] - errors_to + errors  # from this probability up
        flagged = found + (all_valid[:, None] - valid_to + valid)
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = _dot(errors, valid_to - valid / 2) / (all_errors * all_valid)
            average = _dot(errors, np.divide(found, flagged, out=found, where=flagged > 0)) / all_errors
        average[all_valid == 0] = np.nan
        return np.stack([auroc, average], axis=1)


def _dot(a: Floats, b: Floats) -> Floats:
    """(b, G) and (b, G) -> (b,)."""
    return np.asarray(np.einsum("bg,bg->b", a, b), np.float64)
