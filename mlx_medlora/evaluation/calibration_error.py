"""The expected calibration error (Naeini and others 2015), and an interval that knows of its bias.

Binning makes it too high by chance alone, the more so the fewer cases there are: a percentile interval of a
calibrated model would never reach 0. Here resampled patients give both the percentile interval and the one
reflected at the figure, of which the outer ends are taken; and the lower end is 0 where calibrated
probabilities would reach this figure on as many cases.

Letters: N cases, K patients, G bins, B resamples.
"""

from __future__ import annotations

import numpy as np

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import resample
from mlx_medlora.evaluation.intervals import LEVEL, Interval
from mlx_medlora.evaluation.tally import Floats, Ints, Tally

_AT_ONCE = 2_000_000  # labels drawn at a time


def calibration_error(
    tally: Tally, p: Floats, place: Ints, bins: int, level: float = LEVEL
) -> tuple[float, Interval | None]:
    """The error of the probabilities `p` (N,), which fall into the bins `place` (N,), and its interval.

    No interval with fewer than `bootstrap.LEAST` patients.
    """
    inside = np.eye(bins)[place]  # (N, G)
    gap = (p - tally.error)[:, None] * inside
    value = float(np.abs(gap.sum(axis=0)).sum() / tally.n)
    if tally.patients < bootstrap.LEAST:
        return value, None
    sizes = np.bincount(tally.patient, minlength=tally.patients).astype(np.float64)
    middle = gap.sum(axis=0) / np.maximum(inside.sum(axis=0), 1)
    own, centred = (_by_patient(tally, part) for part in (gap, gap - inside * middle))  # (K, G)

    def errors(drawn: Floats) -> Floats:  # (b, K) -> (b, 2): as found, and as if the bins were calibrated
        sums = [np.abs(drawn @ part).sum(axis=1) for part in (own, centred)]
        return np.asarray(np.stack(sums, axis=1) / (drawn @ sizes)[:, None])

    found = resample(tally, errors)
    low, high = np.quantile(found[:, 0], [0.5 - level / 2, 0.5 + level / 2])
    top = 0.5 + level / 2
    by_chance = max(np.quantile(found[:, 1], top), np.quantile(_of_calibrated(p, inside), top))
    least = 0.0 if value <= by_chance else min(low, 2 * value - high)
    return value, (max(0.0, float(least)), min(1.0, float(max(high, 2 * value - low))))


def _by_patient(tally: Tally, part: Floats) -> Floats:
    """(N, G) -> (K, G) sums."""
    sums = np.zeros((tally.patients, part.shape[1]))
    np.add.at(sums, tally.patient, part)
    return sums


def _of_calibrated(p: Floats, inside: Floats) -> Floats:
    """(B,) errors where the right answers are drawn by these very probabilities, each case alone."""
    rng = np.random.default_rng(bootstrap.SEED)
    n, found = len(p), []
    expected, narrow = p @ inside, inside.astype(np.float32)  # counts: exact in fp32
    step = max(1, _AT_ONCE // n)
    for start in range(0, bootstrap.RESAMPLES, step):
        drawn = rng.random((min(step, bootstrap.RESAMPLES - start), n), np.float32) < p
        found.append(np.abs(expected - drawn.astype(np.float32) @ narrow).sum(axis=1) / n)
    return np.concatenate(found)
