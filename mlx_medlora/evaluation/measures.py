"""Every figure of one group of cases, with its interval or the reason why there is none.

Values are scikit-learn's. An unreadable answer is never right: it is no found error and no confirmed
treatment, and flags nothing; for the Matthews correlation it is the wrong verdict.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn import metrics as sk

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.areas import areas
from mlx_medlora.evaluation.bootstrap import resampled_counts, spread
from mlx_medlora.evaluation.intervals import LEVEL, Interval, kish, mean_of_two
from mlx_medlora.evaluation.matthews import matthews_interval
from mlx_medlora.evaluation.meanings import CARD_KEYS, CARD_NAMES, MEANINGS
from mlx_medlora.evaluation.results import Measure, Scores
from mlx_medlora.evaluation.shares import share_interval, union
from mlx_medlora.evaluation.tally import Floats, Ints, Tally, confusion

# (cells counted, cells they are a share of); cells as in `tally.py`
SHARES: dict[str, tuple[list[int], list[int]]] = {
    "accuracy": ([0, 4], [0, 1, 2, 3, 4, 5]),
    "sensitivity": ([0], [0, 1, 2]),
    "specificity": ([4], [3, 4, 5]),
    "false_flag_rate": ([3], [3, 4, 5]),
    "ppv": ([0], [0, 3]),
    "npv": ([4], [1, 4]),
    "invalid_rate": ([2, 5], [0, 1, 2, 3, 4, 5]),
}
FOUND = ([0], [0, 1, 2, 3])  # of errors and false flags
# With unreadable answers held against the model, for figures that leave them out: cells counted, cells they
# are a share of, and the cell of those answers.
STRICT: dict[str, tuple[list[int], list[int], int]] = {
    "false_flag_rate": ([3, 5], [3, 4, 5], 5),
    "ppv": ([0], [0, 3, 5], 5),
    "npv": ([4], [1, 2, 4], 2),
    "f1": ([0], [0, 1, 2, 3, 5], 5),
}

NO_CASES = {
    "sensitivity": "no wrong treatments among the cases",
    "specificity": "no valid treatments among the cases",
    "false_flag_rate": "no valid treatments among the cases",
    "ppv": "no treatment was flagged",
    "npv": "no treatment was called valid",
}
ONE_CLASS = "all cases have the same right answer"
WRITTEN = "there are no probabilities: of a model's answers --method score has them"
CONSTANT = "all verdicts are alike, for which it is 0 by convention"


def scores(tally: Tally, *, resamples: int = bootstrap.RESAMPLES, seed: int = bootstrap.SEED) -> Scores:
    """Every figure of these cases."""
    counts = tally.counts()
    drawn = _drawn(tally, resamples, seed)
    found = {m.name: m for m in _shares(tally, counts, drawn)}
    found |= {m.name: m for m in _verdicts(tally, found, drawn)}
    found |= {m.name: m for m in _rankings(tally, resamples, seed)}
    whole, invalid = found["accuracy"], found["invalid_rate"]
    return Scores(
        accuracy=whole.value,
        n=tally.n,
        correct=whole.count or 0,
        accuracy_interval=whole.interval,
        invalid=invalid.count or 0,
        invalid_rate=invalid.value,
        errors=int(tally.error.sum()),
        valid=int((~tally.error).sum()),
        patients=tally.patients,
        confusion=confusion(counts),
        measures={name: found[name] for name in MEANINGS},
        **{short: found[name] for short, name in CARD_KEYS.items()},
    )


def measure(name: str, value: float | None, n: int, **more: object) -> Measure:
    """A Measure with its meaning and the card's name for it."""
    fields = {"name": name, "value": value, "n": n, "meaning": MEANINGS[name], **more}
    return Measure.model_validate(fields | {"card_name": CARD_NAMES.get(name)})


def _drawn(tally: Tally, resamples: int, seed: int) -> Floats | None:
    enough = tally.patients >= bootstrap.LEAST
    return resampled_counts(tally, resamples, seed) if enough else None


def _shares(tally: Tally, counts: Ints, drawn: Floats | None) -> Iterator[Measure]:
    for name, (top, bottom) in SHARES.items():
        count, n = int(counts[top].sum()), int(counts[bottom].sum())
        if name in ("ppv", "npv") and not tally.both_classes:
            reason = ONE_CLASS if tally.n else "no cases"
            yield measure(name, None, n, reason=reason)
            continue
        interval, method = share_interval(tally, top, bottom, drawn)
        unreadable, strict = _strict(name, tally, drawn)
        absent = None if n else NO_CASES[name] if tally.n and name in NO_CASES else "no cases"
        yield measure(
            name,
            count / n if n else None,
            n,
            count=count,
            interval=interval,
            interval_method=method,
            reason=absent,
            unreadable=unreadable,
            strict_interval=strict,
        )


def _strict(name: str, tally: Tally, drawn: Floats | None) -> tuple[int, Interval | None]:
    """How many unreadable answers the figure leaves out, and the interval with them held against it."""
    if name not in STRICT:
        return 0, None
    top, bottom, cell = STRICT[name]
    unreadable = int(tally.counts()[cell])
    return unreadable, share_interval(tally, top, bottom, drawn)[0] if unreadable else None


def _verdicts(tally: Tally, shares: dict[str, Measure], drawn: Floats | None) -> Iterator[Measure]:
    """Balanced accuracy, F1 and the Matthews correlation."""
    if not tally.both_classes:
        for name in ("balanced_accuracy", "f1", "mcc"):
            yield measure(name, None, tally.n, reason=ONE_CLASS if tally.n else "no cases")
        return
    resampled = _of_counts(drawn) if drawn is not None and tally.repeated else None
    truth, rates = np.where(tally.error, 0, 1), (*_rate(shares["sensitivity"]), *_rate(shares["specificity"]))
    value = float(sk.recall_score(truth, tally.said, labels=[0, 1], average="macro"))
    yield _of_two("balanced_accuracy", value, tally, mean_of_two(*rates), resampled)
    yield _f1(tally, drawn)
    verdict = np.where(tally.said == 2, 1 - truth, tally.said)
    if (tally.said == 2).all():
        yield measure("mcc", None, tally.n, reason="no answer could be read")
        return
    found = matthews_interval(*rates, float(tally.error.mean()))
    value, same = float(sk.matthews_corrcoef(truth, verdict)), len(np.unique(verdict)) == 1
    yield _of_two("mcc", value, tally, found, resampled, CONSTANT if same else None)


def _rate(share: Measure) -> tuple[float, Interval]:
    assert share.value is not None
    assert share.interval is not None
    return share.value, share.interval


def _of_two(
    name: str,
    value: float,
    tally: Tally,
    interval: Interval,
    resampled: dict[str, Floats] | None,
    reason: str | None = None,
) -> Measure:
    """A figure with the interval of its two rates, no surer than by resampling where patients repeat."""
    method = "MOVER of the two shares"
    if resampled is not None:
        drawn = spread(resampled[name], LEVEL, kish(np.bincount(tally.patient)))
        if drawn is not None:
            interval, method = union(interval, drawn), f"{method}, at least the bootstrap over patients"
    return measure(name, value, tally.n, interval=interval, interval_method=method, reason=reason)


def _f1(tally: Tally, drawn: Floats | None) -> Measure:
    """F1 is 2 J / (1 + J), where J is the share of found errors among errors and false flags.

    J is Jaccard's coefficient, F1 its function (Dice): a share of counted cases has a share's interval.
    """
    value = float(sk.f1_score(tally.error, tally.said == 0))
    interval, method = share_interval(tally, *FOUND, drawn, units=[0, 1, 2])
    assert interval is not None
    unreadable, strict = _strict("f1", tally, drawn)
    return measure(
        "f1",
        value,
        tally.n,
        interval=_dice(interval),
        interval_method=f"{method}, of F1 / (2 - F1)",
        unreadable=unreadable,
        strict_interval=None if strict is None else _dice(strict),
    )


def _dice(jaccard: Interval) -> Interval:
    low, high = (2 * bound / (1 + bound) for bound in jaccard)
    return low, high


def _of_counts(counts: Floats) -> dict[str, Floats]:
    """(B, 6) counts -> (B,) of each figure that is made of them alone; NaN where it does not exist."""
    found, missed, blank, flagged, passed, mute = counts.T
    errors, valid = found + missed + blank, flagged + passed + mute
    with np.errstate(divide="ignore", invalid="ignore"):
        balanced = (found / errors + passed / valid) / 2
        f1 = 2 * found / (errors + found + flagged)
        false_negative, false_positive = missed + blank, flagged + mute
        called, spared = found + false_positive, passed + false_negative
        below = np.sqrt(called * spared * errors * valid)
        mcc = np.where(below > 0, (found * passed - false_positive * false_negative) / below, 0.0)
    one_class = (errors == 0) | (valid == 0)
    return {
        "balanced_accuracy": balanced,
        "f1": np.where(one_class, np.nan, f1),
        "mcc": np.where(one_class, np.nan, mcc),
    }


def _rankings(tally: Tally, resamples: int, seed: int) -> Iterator[Measure]:
    """The areas under the two curves."""
    if tally.p is None or not tally.both_classes:
        reason = "no cases" if not tally.n else ONE_CLASS if tally.p is not None else WRITTEN
        for name in ("auroc", "auprc"):
            yield measure(name, None, tally.n, reason=reason)
        return
    for name, (value, interval, method) in areas(tally, tally.p, resamples, seed).items():
        yield measure(name, value, tally.n, interval=interval, interval_method=method)
