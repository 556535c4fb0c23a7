"""How far a figure measured on few cases can be trusted: intervals in closed form.

They treat the cases as independent; `shares.py` and `bootstrap.py` deal with patients of several cases.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

LEVEL = 0.95

Interval = tuple[float, float]


def wilson(successes: int, n: int, level: float = LEVEL) -> Interval | None:
    """Wilson's score interval of a share (Wilson 1927), or None where there are no cases.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} cases")
    if n == 0:
        return None
    from scipy.stats import binomtest  # half a second to import: only when a figure is made

    found = binomtest(successes, n).proportion_ci(level, method="wilson")
    return _ends(successes / n, (float(found.low), float(found.high)))


def wilson_effective(share: float, n: float, level: float = LEVEL) -> Interval:
    """Wilson's interval of a share that `n` cases, not necessarily a whole number, are worth."""
    z = normal_quantile(level)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return _ends(share, (max(0.0, middle - half), min(1.0, middle + half)))


def _ends(share: float, interval: Interval) -> Interval:
    """Exactly 0 or 1 where the share is, which rounding may miss by a bit: a gate at 100 % would fail."""
    return 0.0 if share <= 0 else interval[0], 1.0 if share >= 1 else interval[1]


def kish(sizes: npt.ArrayLike) -> float:
    """How many equal units unequal ones are worth (Kish 1965): squared sum over sum of squares."""
    size = np.asarray(sizes, np.float64)
    return float(size.sum() ** 2 / (size**2).sum())


@cache
def normal_quantile(level: float = LEVEL) -> float:
    """z of a two-sided interval: 1.96 for 95 %."""
    from scipy.stats import norm

    return float(norm.ppf(0.5 + level / 2))


def mean_of_two(a: float, a_interval: Interval, b: float, b_interval: Interval) -> Interval:
    """Interval of (a + b) / 2 from those of two independent figures (MOVER, Zou and Donner 2008)."""
    low = math.hypot(a - a_interval[0], b - b_interval[0])
    high = math.hypot(a_interval[1] - a, b_interval[1] - b)
    return max(0.0, (a + b - low) / 2), min(1.0, (a + b + high) / 2)


def auroc_interval(auroc: float, errors: float, valid: float, level: float = LEVEL) -> Interval:
    """Interval of an area under the ROC curve (Newcombe 2006, part 2, method 5).

    All areas whose own standard error (Hanley and McNeil 1982, their N made symmetric) does not exclude
    the one seen; it stays sensible at 0 and 1, where resampling gives no width at all. `errors` and
    `valid` need not be whole numbers: of patients they are as many as they are worth.
    """
    z = normal_quantile(level)
    return (
        _edge(auroc, 0.0, z, errors, valid) if auroc > 0 else 0.0,
        _edge(auroc, 1.0, z, errors, valid) if auroc < 1 else 1.0,
    )


def _edge(seen: float, end: float, z: float, errors: float, valid: float) -> float:
    """The area between `seen` and `end` from which `seen` is just z standard errors away."""
    from scipy.optimize import brentq

    def excess(area: float) -> float:
        return (area - seen) ** 2 - z * z * _hanley_mcneil(area, errors, valid)

    inner = seen + math.copysign(1e-12, end - seen)
    if excess(inner) >= 0:
        return seen
    return float(brentq(excess, inner, end))


def _hanley_mcneil(area: float, errors: float, valid: float) -> float:
    """Variance of the area under exponential scores."""
    half = (errors + valid) / 2 - 1
    spread = 1 + half * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (errors * valid)
