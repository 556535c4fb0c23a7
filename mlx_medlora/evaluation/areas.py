"""The areas under the ROC and the precision-recall curve, with their intervals.

Each is the union of the percentile bootstrap with a closed form that has a width for a perfect ranking too;
where patients have several cases, no surer than a perfect ranking of these patients would be. The draws do
not depend on the probabilities, so that one case ranked worse never betters a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn import metrics as sk

from mlx_medlora.evaluation.bootstrap import LEAST, Ranking, resample, spread
from mlx_medlora.evaluation.intervals import LEVEL, Interval, auroc_interval, kish, wilson_effective
from mlx_medlora.evaluation.shares import union
from mlx_medlora.evaluation.tally import Bools, Floats, Tally

CLOSED = {"auroc": "Newcombe", "auprc": "Wilson of the errors (Boyd)"}
Closed = Callable[[float, float, float], Interval]  # of an area, errors, valid treatments


def areas(tally: Tally, p: Floats, resamples: int, seed: int) -> dict[str, tuple[float, Interval, str]]:
    """Value, interval and its method of `auroc` and `auprc`; `p` (N,) are probabilities of ERROR.

    Both classes must be there.
    """
    values = {
        "auroc": float(sk.roc_auc_score(tally.error, p)),
        "auprc": float(sk.average_precision_score(tally.error, p)),
    }
    drawn = None
    if tally.patients >= LEAST:
        drawn = resample(tally, Ranking(tally.error, p, tally.patient), resamples, seed)
    found = {}
    for column, (name, value) in enumerate(values.items()):
        of_it = None if drawn is None else drawn[:, column]
        found[name] = (value, *_interval(tally, name, value, of_it))
    return found


def _interval(tally: Tally, name: str, value: float, drawn: Floats | None) -> tuple[Interval, str]:
    closed = _auroc if name == "auroc" else _auprc
    errors, valid = int(tally.error.sum()), int((~tally.error).sum())
    worth = _worth(tally, tally.error), _worth(tally, ~tally.error)
    bootstrap = None
    if drawn is not None:
        bootstrap = spread(drawn, LEVEL, kish(np.bincount(tally.patient)))
    if tally.repeated and bootstrap is None:
        return closed(value, *worth), f"{CLOSED[name]}, of as many as the patients are worth (Kish)"
    parts, method = [closed(value, errors, valid)], CLOSED[name]
    if bootstrap is not None:
        parts, method = [*parts, bootstrap], f"bootstrap, at least {CLOSED[name]}"
    if tally.repeated:
        parts.append((closed(1.0, *worth)[0], closed(0.0, *worth)[1]))
        method += ", no surer than perfect patients"
    return union(*parts), method


def _worth(tally: Tally, kind: Bools) -> float:
    """Patients' worth by their cases of one right answer."""
    return kish(np.bincount(tally.patient[kind]))


def _auroc(value: float, errors: float, valid: float) -> Interval:
    return auroc_interval(value, errors, valid)


def _auprc(value: float, errors: float, valid: float) -> Interval:
    """Boyd, Eng and Page 2013: as the share of so many errors; Wilson's form of it has a width at 1."""
    return wilson_effective(value, errors, LEVEL)
