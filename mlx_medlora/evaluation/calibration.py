"""Whether a probability of ERROR can be believed.

Letters: N cases.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import percentile, resample
from mlx_medlora.evaluation.calibration_error import calibration_error
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.intervals import Interval
from mlx_medlora.evaluation.results import Bin, Calibration, Measure
from mlx_medlora.evaluation.shares import mean_interval
from mlx_medlora.evaluation.tally import Bools, Floats, Ints, Tally
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
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    ece, within = calibration_error(tally, p, place, BINS)
    return Calibration(
        temperature=temperature,
        n=tally.n,
        ece=ece,
        ece_interval=within,
        brier=_brier(tally, p),
        log_loss=float(sk.log_loss(tally.error, p, labels=[False, True])),
        log_loss_interval=_of_mean(tally, _losses(tally.error, p))[0],
        bins=_bins(tally, p, place),
    )


def _bins(tally: Tally, p: Floats, place: Ints) -> list[Bin]:
    """Ten bins of equal width; a probability of 1 belongs to the last."""
    found = []
    for number in range(BINS):
        inside = place == number
        part = tally.where(inside)
        errors = share("errors", "", part.error, part.patient)
        found.append(
            Bin(
                low=number / BINS,
                high=(number + 1) / BINS,
                n=part.n,
                errors=errors.count or 0,
                mean=float(p[inside].mean()) if part.n else None,
                share=errors.value,
                interval=errors.interval,
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


def _losses(error: Bools, p: Floats) -> Floats:
    """(N,) nats, of probabilities held off 0 and 1 as scikit-learn does."""
    least = np.finfo(p.dtype).eps
    held = np.clip(p, least, 1 - least)
    return np.asarray(-np.where(error, np.log(held), np.log1p(-held)))


def _of_mean(tally: Tally, values: Floats) -> tuple[Interval | None, str | None]:
    """The interval of the mean of `values` (N,) by resampled patients, or None and why."""
    if tally.patients < bootstrap.LEAST:
        return None, bootstrap.FEW
    sums = np.bincount(tally.patient, values, minlength=tally.patients)
    sizes = np.bincount(tally.patient, minlength=tally.patients).astype(np.float64)
    return percentile(resample(tally, lambda drawn: (drawn @ sums) / (drawn @ sizes)))
