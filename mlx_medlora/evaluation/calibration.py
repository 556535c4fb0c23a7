"""Whether a probability of ERROR can be believed.

Letters: N cases.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from mlx_medlora.evaluation.intervals import wilson
from mlx_medlora.evaluation.results import Bin, Calibration, Measure
from mlx_medlora.evaluation.shares import mean_interval
from mlx_medlora.evaluation.tally import Bools, Floats, Tally
from mlx_medlora.evaluation.temperature import tempered

BINS = 10
BRIER = (
    "mean squared difference of the probability of ERROR from what was true: 0 perfect, 0.25 for always 0.5"
)


def reliability(tally: Tally, temperature: float = 1.0) -> Calibration | None:
    """The reliability diagram and its summaries; None for written answers or no cases."""
    if tally.p is None or not tally.n:
        return None
    p = tempered(tally.p, temperature)
    bins = _bins(p, tally.error)
    gaps = [b.n * abs(b.mean - b.share) for b in bins if b.mean is not None and b.share is not None]
    return Calibration(
        temperature=temperature,
        n=tally.n,
        ece=sum(gaps) / tally.n,
        brier=_brier(tally, p),
        log_loss=float(sk.log_loss(tally.error, p, labels=[False, True])),
        bins=bins,
    )


def _bins(p: Floats, error: Bools) -> list[Bin]:
    """Ten bins of equal width; a probability of 1 belongs to the last."""
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    found = []
    for number in range(BINS):
        inside = place == number
        n, errors = int(inside.sum()), int(error[inside].sum())
        found.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                n=n,
                errors=errors,
                mean=float(p[inside].mean()) if n else None,
                share=errors / n if n else None,
                interval=wilson(errors, n),
            )
        )
    return found


def _brier(tally: Tally, p: Floats) -> Measure:
    interval, method = mean_interval(tally, (p - tally.error) ** 2)
    return Measure(
        name="brier",
        value=float(sk.brier_score_loss(tally.error, p, pos_label=True)),
        n=tally.n,
        meaning=BRIER,
        interval=interval,
        interval_method=method,
    )
