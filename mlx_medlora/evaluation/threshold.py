"""A threshold for the probability of ERROR, chosen on cases whose right answers are known.

Letters: N cases, C candidates.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from mlx_medlora.evaluation.results.calibration import Rule
from mlx_medlora.evaluation.tally import Bools, Floats
from mlx_medlora.evaluation.temperature import log_odds


def choose_threshold(error: Bools, p: Floats, rule: Rule, limit: float) -> float:
    """The threshold from which on a case is flagged, by its probability `p` (N,).

    `max-false-flag`: of those that flag at most `limit` of the valid treatments, the one that finds most
    errors, and then flags fewest. `min-sensitivity`: of those that find at least `limit` of the errors,
    the one that flags fewest, and then finds most. It lies halfway, in log-odds, between two
    probabilities seen; cases of equal probability stay together. Above 1 it flags nothing.
    Raises ValueError where a class is missing.
    """
    if not error.any() or error.all():
        raise ValueError("a threshold needs cases of either right answer")
    marks = candidates(p)
    flagged_valid = _flagged(np.sort(p[~error]), marks)
    flagged_errors = _flagged(np.sort(p[error]), marks)
    if rule == "max-false-flag":
        allowed = flagged_valid <= np.floor(limit * (~error).sum() + 1e-9)
        best = allowed & (flagged_errors == flagged_errors[allowed].max())
        return float(marks[best].max())
    enough = flagged_errors >= np.ceil(limit * error.sum() - 1e-9)
    best = enough & (flagged_valid == flagged_valid[enough].min())
    return float(marks[best].min())


def candidates(p: Floats) -> Floats:
    """(C,) every threshold that flags another set of cases, from all of them to none."""
    seen = np.unique(p)
    halfway = expit((log_odds(seen[:-1]) + log_odds(seen[1:])) / 2)
    between = np.where((seen[:-1] < halfway) & (halfway <= seen[1:]), halfway, seen[1:])
    last = (seen[-1] + 1) / 2
    none = last if last > seen[-1] else np.nextafter(1.0, 2.0)
    return np.concatenate([[0.0], between, [none]])


def _flagged(ranked: Floats, marks: Floats) -> Floats:
    """(C,) how many of the sorted probabilities lie at each mark or above."""
    return len(ranked) - np.searchsorted(ranked, marks, side="left").astype(np.float64)
