"""The interval of the Matthews correlation, from those of sensitivity and specificity.

The share of errors among the cases is taken as given.
"""

from __future__ import annotations

import math

from mlx_medlora.evaluation.intervals import Interval


def matthews(sensitivity: float, specificity: float, errors: float) -> float:
    """The correlation of verdicts with the truth, where the share `errors` of the cases are errors.

    It rises with either rate, and is 0 where all verdicts are alike.
    """
    flagged = errors * sensitivity + (1 - errors) * (1 - specificity)
    below = math.sqrt(flagged * (1 - flagged)) if 0 < flagged < 1 else 0.0
    spread = math.sqrt(errors * (1 - errors))
    return spread * (sensitivity + specificity - 1) / below if below else 0.0


def matthews_interval(
    a: float, a_interval: Interval, b: float, b_interval: Interval, errors: float
) -> Interval:
    """From sensitivity `a` and specificity `b`, independent, with their intervals.

    MOVER (Zou and Donner 2008): how far the figure moves where either rate is at its bound, put together
    as the sides of a right angle. Unlike Fisher's z and resampling it has a width for a perfect result too.
    """
    seen = matthews(a, b, errors)
    bounds = []
    for side, sign in ((0, -1.0), (1, 1.0)):
        moved = (matthews(a_interval[side], b, errors), matthews(a, b_interval[side], errors))
        bounds.append(seen + sign * math.hypot(*(one - seen for one in moved)))
    low, high = max(-1.0, bounds[0]), min(1.0, bounds[1])
    return -1.0 if (a, b) == (0, 0) else low, 1.0 if (a, b) == (1, 1) else high
