"""The interval of a share where patients may have several cases.

Where nobody has, it is Wilson's. Else, with twenty patients or more, patients are resampled, and the
interval is never surer than Wilson's of the same counts, nor than a perfect result of these patients would
be; with fewer, or where all cases went the same way, it is Wilson's of as many cases as there are patients,
unequal ones counted as what they are worth (Kish 1965).

So one more wrong answer never betters a bound: resamples are the same draws whatever the answers, Wilson's
bounds follow the count, and what the patients are worth does not depend on the answers at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlx_medlora.evaluation.bootstrap import LEAST, resample, spread
from mlx_medlora.evaluation.intervals import LEVEL, Interval, kish, wilson, wilson_effective
from mlx_medlora.evaluation.tally import Floats, Ints, Tally

WILSON = "Wilson"
BY_PATIENT = "bootstrap over patients, at least Wilson"
AS_PATIENTS = "Wilson, each patient counted as one case"
WORTH = "Wilson, of as many cases as unequal patients are worth (Kish)"


def share_interval(
    tally: Tally,
    top: Sequence[int],
    bottom: Sequence[int],
    resampled: Floats | None,
    level: float = LEVEL,
    units: Sequence[int] | None = None,
) -> tuple[Interval | None, str | None]:
    """The interval of (cases in the cells `top`) / (those in `bottom`), and how it was made.

    `resampled` (B, 6) are counts over patients, needed where patients repeat. Patients count by their cases
    in the cells `units`, `bottom` by default. (None, None) without cases.
    """
    by_patient = tally.counts_by_patient()
    count, n = (int(by_patient[:, cells].sum()) for cells in (top, bottom))
    if n == 0:
        return None, None
    plain = wilson(count, n, level)
    assert plain is not None
    repeated = tally.repeated if units is not None else by_patient[:, bottom].sum(axis=1).max() > 1
    if not repeated:
        return plain, WILSON
    own = by_patient[:, bottom if units is None else units].sum(axis=1)
    own, worth = own[own > 0], kish(own)
    drawn = None
    if len(own) >= LEAST and resampled is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = spread(resampled[:, top].sum(axis=1) / resampled[:, bottom].sum(axis=1), level, worth)
    if drawn is None or count in (0, n):
        return wilson_effective(count / n, worth, level), _as_patients(own)
    return union(plain, drawn, surest(worth, level)), BY_PATIENT


def mean_interval(tally: Tally, values: Floats, level: float = LEVEL) -> tuple[Interval, str]:
    """The interval of the mean of `values` (N,), each within 0 and 1, and how it was made.

    Percentiles of resampled patients, no surer than Wilson's: no such quantity varies more than a share of
    the same mean (Bhatia and Davis 2000), so that this bound holds where resamples have seen no large value.
    """
    sizes = np.bincount(tally.patient).astype(np.float64)
    mean, worth = float(values.mean()), kish(sizes)
    if tally.patients < LEAST:
        return wilson_effective(mean, worth, level), WORTH if tally.repeated else WILSON
    sums = np.bincount(tally.patient, values)
    drawn = spread(resample(tally, lambda w: (w @ sums) / (w @ sizes)), level, worth)
    assert drawn is not None
    parts = [wilson_effective(mean, tally.n, level), drawn]
    if tally.repeated:
        parts.append(surest(worth, level))
    return union(*parts), "bootstrap, at least Wilson"


def _as_patients(own: Ints) -> str:
    return AS_PATIENTS if own.min() == own.max() else WORTH


def surest(worth: float, level: float = LEVEL) -> Interval:
    """What no interval may lie within: from the lower bound of all right to the upper one of all wrong.

    Of `worth` patients, each of whom may answer for all of his cases. Without it, one wrong answer among
    many cases of few patients would give a better bound than none: only then are they resampled.
    """
    return wilson_effective(1.0, worth, level)[0], wilson_effective(0.0, worth, level)[1]


def union(*intervals: Interval) -> Interval:
    """The smallest interval that holds them all."""
    return min(low for low, _ in intervals), max(high for _, high in intervals)
