"""Whether a probability of ERROR can be believed, and the temperature that mends it.

Letters: N cases.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sk

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import percentile, resample
from mlx_medlora.evaluation.intervals import wilson
from mlx_medlora.evaluation.results import Bin, Calibration, Measure
from mlx_medlora.evaluation.tally import Bools, Floats, Tally

BINS = 10
BRIER = (
    "mean squared difference of the probability of ERROR from what was true: 0 perfect, 0.25 for always 0.5"
)

_EDGE = 36.0  # log-odds beyond which a probability in 64 bits is 0 or 1
_COLDEST, _HOTTEST = 1e-3, 1e3


def log_odds(p: Floats) -> Floats:
    """(N,) probabilities as log-odds, cut at ±36 where 64 bits end."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(p) - np.log1p(-p), -_EDGE, _EDGE)


def tempered(p: Floats, temperature: float) -> Floats:
    """(N,) probabilities with their log-odds divided by `temperature` (Guo and others 2017)."""
    from scipy.special import expit

    if temperature == 1.0:
        return p
    return np.asarray(expit(log_odds(p) / temperature), np.float64)


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
    value = float(sk.brier_score_loss(tally.error, p, pos_label=True))
    interval, reason = None, bootstrap.FEW
    if tally.patients >= bootstrap.LEAST:
        squared = (p - tally.error) ** 2
        sums = np.bincount(tally.patient, squared, minlength=tally.patients)
        sizes = np.bincount(tally.patient, minlength=tally.patients).astype(np.float64)
        found = percentile(resample(tally, lambda drawn: (drawn @ sums) / (drawn @ sizes)))
        interval, reason = found[0], found[1] or ""
    return Measure(
        name="brier",
        value=value,
        n=tally.n,
        meaning=BRIER,
        interval=interval,
        interval_method=None if interval is None else "bootstrap, percentile",
        reason=reason or None,
    )


def fit_temperature(error: Bools, p: Floats) -> tuple[float, str | None]:
    """The temperature of the smallest log loss on these cases, and a remark where it is left at 1.

    The loss is convex in 1/temperature. It has no minimum where the sign of the log-odds is always right
    (any colder is better still) or where they carry nothing (any hotter is).
    """
    from scipy.optimize import minimize_scalar

    odds = log_odds(p)
    signed = np.where(error, odds, -odds)
    if (signed >= 0).all():
        return 1.0, "every case is on the right side of one half: no temperature can be told; left at 1"
    if signed.sum() <= 0:
        return (
            1.0,
            "the probabilities carry no information on these cases: no temperature can be told; left at 1",
        )

    def loss(log_inverse: float) -> float:
        return float(np.logaddexp(0, -np.exp(log_inverse) * signed).mean())

    bounds = (np.log(1 / _HOTTEST), np.log(1 / _COLDEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(-found.x)), None
