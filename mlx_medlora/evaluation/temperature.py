"""Probabilities whose log-odds are divided by one number, and that number.

Letters: N cases.
"""

from __future__ import annotations

import numpy as np

from mlx_medlora.evaluation.tally import Bools, Floats

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
