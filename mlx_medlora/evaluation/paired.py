"""Two sets of answers to the same cases: the difference of their shares, with its interval.

Where patients have several cases it is no narrower than by resampling patients, and no narrower than
Newcombe's of as many cases as theirs are worth: those over their design effect, or where the patients are too
few to resample, as if each said the same throughout (Kish 1965). Letters: N cases, K patients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import percentile
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.intervals import LEVEL, Interval, wilson_effective
from mlx_medlora.evaluation.results import Measure
from mlx_medlora.evaluation.shares import union
from mlx_medlora.evaluation.tally import Bools, Floats, Ints

DIFFERENCE = "accuracy of the second run less that of the first, on the same cases"

PLAIN = "Newcombe, paired"
BY_PATIENT = "bootstrap over patients, at least Newcombe"
AS_PATIENTS = "Newcombe, paired, of as many cases as the patients are worth"
HALVES = "from its halves (MOVER), each with its own interval"
HALVES_BY_PATIENT = f"{HALVES}, at least the bootstrap over patients"
HALVES_TOGETHER = f"{HALVES}, as if they always erred together"
ONE_PATIENT = "all cases are one patient's: nothing can be said of others"
ONE_OF_A_KIND = "all cases of one right answer are one patient's: nothing can be said of others"


def newcombe(both: float, won: float, lost: float, neither: float, level: float = LEVEL) -> Interval:
    """Interval of a difference of two shares of the same cases, second less first.

    Newcombe 1998, paired data, method 10: Wilson's bounds of either share, put together with their
    correlation. `won` counts the cases that only the second has. Counts need not be whole: those of
    clustered cases are scaled to what they are worth.
    """
    n = both + won + lost + neither
    p, q = (both + won) / n, (both + lost) / n
    a, b = wilson_effective(p, n, level), wilson_effective(q, n, level)
    below = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    cross = both * neither - won * lost
    if cross > 0:
        cross = max(cross - n / 2, 0.0)  # continuity, as the paper's method 10 has it
    phi = cross / below**0.5 if below else 0.0
    down, up = (p - a[0], b[1] - q), (a[1] - p, q - b[0])
    low, high = ((x * x - 2 * phi * x * y + y * y) for x, y in (down, up))
    return max(-1.0, p - q - max(low, 0.0) ** 0.5), min(1.0, p - q + max(high, 0.0) ** 0.5)


def paired_difference(
    first: Bools, second: Bools, patient: Ints, *, name: str = "difference", meaning: str = DIFFERENCE
) -> Measure:
    """The share that is right in `second` (N,) less that in `first`, of the same cases.

    `patient` (N,) are numbers from 0. There is an interval unless all cases are one patient's several.
    Raises ValueError without cases.
    """
    if not len(first):
        raise ValueError("a difference takes at least one case")
    interval, method = _interval(first, second, patient)
    return Measure(
        name=name,
        value=_value(first, second),
        n=len(first),
        meaning=meaning,
        interval=interval,
        interval_method=method,
        reason=None if interval is not None else ONE_PATIENT,
    )


def balanced_difference(
    first: Bools, second: Bools, error: Bools, patient: Ints, *, name: str, meaning: str
) -> Measure:
    """The balanced accuracy of `second` (N,) less that of `first`: the mean of the two kinds' differences.

    `error` (N,) tells the kinds apart. The halves are put together by MOVER (Zou and Donner 2008); where
    patients have cases of both kinds it is no narrower than by resampling them. Raises ValueError where
    there are cases of one kind only.
    """
    halves = [
        (_value(first[kind], second[kind]), _interval(first[kind], second[kind], patient[kind])[0])
        for kind in _kinds(error)
    ]
    steps = second.astype(np.float64) - first
    return _balanced(halves, _Cases(steps, error, patient), name, meaning)


def balanced_share(
    right: Bools, error: Bools, patient: Ints, *, name: str, meaning: str, less: float = 0.0
) -> Measure:
    """The balanced accuracy of answers that are `right` (N,), `less` a fixed figure it is held against.

    One half is what always answering the same has. Otherwise as `balanced_difference`; its halves have the
    intervals of shares.
    """
    halves: list[_Half] = []
    for kind in _kinds(error):
        found = share(name, meaning, right[kind], np.unique(patient[kind], return_inverse=True)[1])
        assert found.value is not None
        assert found.interval is not None
        halves.append((found.value - less, (found.interval[0] - less, found.interval[1] - less)))
    return _balanced(halves, _Cases(right.astype(np.float64) - less, error, patient), name, meaning)


_Half = tuple[float, Interval | None]


@dataclass(frozen=True)
class _Cases:
    """(N,) each: what a case adds to its kind's sum, whether it is an error, its patient."""

    steps: Floats
    error: Bools
    patient: Ints

    @property
    def mixed(self) -> bool:
        """Whether a patient has cases of both kinds."""
        return bool(np.intersect1d(self.patient[self.error], self.patient[~self.error]).size)

    def resampled(self) -> tuple[Interval | None, str | None]:
        """The interval of the mean of both kinds' means, patients resampled, or the reason why none."""
        own = np.unique(self.patient, return_inverse=True)[1].reshape(-1)
        patients = int(own.max()) + 1
        if patients < bootstrap.LEAST:
            return None, bootstrap.FEW
        sums, sizes = (
            np.stack([np.bincount(own[kind], values[kind], patients) for kind in _kinds(self.error)])
            for values in (self.steps, np.ones_like(self.steps))
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            drawn = [((w @ sums.T) / (w @ sizes.T)).mean(axis=1) for w in bootstrap.weights(patients)]
        return percentile(np.concatenate(drawn))


def _kinds(error: Bools) -> tuple[Bools, Bools]:
    if error.all() or not error.any():
        raise ValueError("a balanced difference takes cases of both right answers")
    return error, ~error


def _balanced(halves: list[_Half], cases: _Cases, name: str, meaning: str) -> Measure:
    value = (halves[0][0] + halves[1][0]) / 2
    interval, method = _of_halves(halves, cases)
    return Measure(
        name=name,
        value=value,
        n=len(cases.steps),
        meaning=meaning,
        interval=interval,
        interval_method=method,
        reason=None if interval is not None else ONE_OF_A_KIND,
    )


def _of_halves(halves: list[_Half], cases: _Cases) -> tuple[Interval | None, str | None]:
    """Interval of the halves' mean, and how it was made; None where a half has none."""
    (a, of_a), (b, of_b) = halves
    if of_a is None or of_b is None:
        return None, None
    drawn, why = cases.resampled() if cases.mixed else (None, None)
    together = cases.mixed and drawn is None and why != bootstrap.FIXED
    add = (lambda x, y: x + y) if together else math.hypot
    middle = (a + b) / 2
    low, high = add(a - of_a[0], b - of_b[0]) / 2, add(of_a[1] - a, of_b[1] - b) / 2
    interval = max(-1.0, middle - low), min(1.0, middle + high)
    if drawn is not None:
        return union(interval, drawn), HALVES_BY_PATIENT
    return interval, HALVES_TOGETHER if together else HALVES


def _value(first: Bools, second: Bools) -> float:
    return (int(second.sum()) - int(first.sum())) / len(first)


def _interval(first: Bools, second: Bools, patient: Ints) -> tuple[Interval | None, str | None]:
    """Of the difference of two shares (N,), and how it was made; None where one patient has all cases."""
    pairs = (first & second, second & ~first, first & ~second, ~first & ~second)
    counts = [int(pair.sum()) for pair in pairs]
    plain = newcombe(*counts)
    own, sizes = np.unique(patient, return_inverse=True, return_counts=True)[1:]
    if sizes.max() == 1:
        return plain, PLAIN
    if len(sizes) == 1:
        return None, None
    steps = second.astype(np.float64) - first
    sums = np.bincount(own.reshape(-1), steps).astype(np.float64)
    drawn, worth = None, len(first) ** 2 / float((sizes**2).sum())  # Kish's number of cases
    if len(sizes) >= bootstrap.LEAST:
        worth = max(worth, len(first) / _design_effect(steps, sums, sizes))
        values = [(w @ sums) / (w @ sizes) for w in bootstrap.weights(len(sizes))]
        drawn, _ = percentile(np.concatenate(values))
    scaled = newcombe(*(count * worth / len(first) for count in counts))
    found = union(plain, scaled)
    return (found, AS_PATIENTS) if drawn is None else (union(found, drawn), BY_PATIENT)


def _design_effect(steps: Floats, sums: Floats, sizes: Ints) -> float:
    """How much (N,) steps vary by being (K,) patients' over how much they would as single cases; at least 1.

    Two patients are added, one who wins everything and one who loses everything, as Bonett and Price (2012)
    add two cases: patients who are nearly all alike say little of how alike their cases are. They have as
    many cases as the average case's patient, so that patients who are all alike come to Kish's number.
    """
    size = (sizes**2).sum() / sizes.sum()
    mean = steps.sum() / (len(steps) + 2 * size)
    whole = np.r_[sums, size, -size] - mean * np.r_[sizes, size, size]
    single = ((steps - mean) ** 2).sum() + size * ((1 - mean) ** 2 + (1 + mean) ** 2)
    return max(1.0, float((whole**2).sum() / single))
