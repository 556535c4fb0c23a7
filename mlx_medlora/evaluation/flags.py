"""The share of cases for which something holds, with its interval."""

from __future__ import annotations

import numpy as np

from mlx_medlora.evaluation.bootstrap import LEAST, resampled_counts
from mlx_medlora.evaluation.results import Measure
from mlx_medlora.evaluation.shares import share_interval
from mlx_medlora.evaluation.tally import Bools, Ints, Tally


def share(name: str, meaning: str, holds: Bools, patient: Ints) -> Measure:
    """The share of `holds` (N,); `patient` (N,) are numbers from 0, whose cases widen the interval."""
    n = len(holds)
    if not n:
        return Measure(name=name, value=None, n=0, meaning=meaning, reason="no cases")
    tally = Tally(np.ones(n, bool), np.where(holds, 0, 1), None, patient)
    drawn = resampled_counts(tally) if tally.patients >= LEAST else None
    interval, method = share_interval(tally, [0], [0, 1], drawn)
    count = int(holds.sum())
    return Measure(
        name=name,
        value=count / n,
        n=n,
        count=count,
        meaning=meaning,
        interval=interval,
        interval_method=method,
    )
