"""The interval of a share where patients may have several cases.

Where nobody has, it is Wilson's. Else, with twenty patients or more, patients are resampled, and the
interval is never narrower than Wilson's of the same counts; with fewer, or where all cases went the same
way, it is Wilson's of as many cases as there are patients.
"""

from __future__ import annotations

import numpy as np

from mlx_medlora.evaluation.bootstrap import LEAST, percentile
from mlx_medlora.evaluation.intervals import LEVEL, Interval, wilson, wilson_effective
from mlx_medlora.evaluation.tally import Floats, Tally

WILSON = "Wilson"
BY_PATIENT = "bootstrap over patients, at least Wilson"
AS_PATIENTS = "Wilson, each patient counted as one case"


def share_interval(
    tally: Tally, top: list[int], bottom: list[int], resampled: Floats | None, level: float = LEVEL
) -> tuple[Interval | None, str | None]:
    """The interval of (cases in the cells `top`) / (those in `bottom`), and how it was made.

    `resampled` (B, 6) are counts over patients, needed where patients repeat. (None, None) without cases.
    """
    by_patient = tally.counts_by_patient()
    count, n = (int(by_patient[:, cells].sum()) for cells in (top, bottom))
    if n == 0:
        return None, None
    plain = wilson(count, n, level)
    assert plain is not None
    own = by_patient[:, bottom].sum(axis=1)
    patients = int((own > 0).sum())
    if own.max() <= 1:
        return plain, WILSON
    drawn = None
    if patients >= LEAST and resampled is not None:  # all right or all wrong has no spread: None
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn, _ = percentile(resampled[:, top].sum(axis=1) / resampled[:, bottom].sum(axis=1), level)
    if drawn is None:
        return wilson_effective(count / n, patients, level), AS_PATIENTS
    return union(plain, drawn), BY_PATIENT


def union(a: Interval, b: Interval) -> Interval:
    """The smallest interval that holds both."""
    return min(a[0], b[0]), max(a[1], b[1])
