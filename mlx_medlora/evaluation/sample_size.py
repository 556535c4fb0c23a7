"""How many cases a claim takes. All of independent patients: several cases of one are worth less."""

from __future__ import annotations

import math

from mlx_medlora.evaluation.intervals import LEVEL, Interval, normal_quantile, wilson_effective
from mlx_medlora.evaluation.results import SampleSize, Scores


def cases_to_show(share: float, bound: float, level: float = LEVEL) -> int | None:
    """The fewest cases, `share` of them counted, whose Wilson interval does not reach `bound`.

    None where the share is at the bound: no number would do. Wilson's bounds are those shares from which
    the one seen is z standard errors away, so that the number can be solved for.
    """
    if math.isclose(share, bound):
        return None
    z = normal_quantile(level)
    cases = z * z * bound * (1 - bound) / (share - bound) ** 2
    return max(1, math.ceil(cases - 1e-9))


def cases_for_margin(share: float, margin: float, level: float = LEVEL) -> int:
    """The fewest cases whose Wilson interval reaches at most `margin` to either side of `share`."""
    low, high = 1, 1
    while _reach(share, high, level) > margin:
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _reach(share, middle, level) <= margin else (middle + 1, high)
    return low


def _reach(share: float, n: int, level: float) -> float:
    low, high = wilson_effective(share, n, level)
    return max(share - low, high - share)


def sample_size(found: Scores, target: float, margin: float) -> SampleSize:
    """What the accuracy of `found` would take to show `target`, and to be known to `margin`."""
    assert found.accuracy is not None
    above = found.accuracy > target
    needed = cases_to_show(found.accuracy, target) if above else None
    least = cases_to_show(1.0, target)
    assert least is not None
    precise = cases_for_margin(found.accuracy, margin)
    return SampleSize(
        n=found.n,
        target=target,
        for_target=needed,
        least=least,
        margin=margin,
        for_margin=precise,
        sentence=_sentence(found, target, needed, least, margin, precise),
    )


def _sentence(
    found: Scores, target: float, needed: int | None, least: int, margin: float, precise: int
) -> str:
    assert found.accuracy is not None
    n, goal = _cases(found.n), f"{100 * target:g} %"
    precision = (
        f"Knowing it to {100 * margin:g} points takes about {precise} cases of as many patients."
        if found.n < precise
        else ""
    )
    if _shown(found.accuracy_interval, target):
        return f"{n}: accuracy is above {goal} with the interval. {precision}".strip()
    if found.accuracy_interval is not None and found.accuracy_interval[1] < target:
        return f"{n}: accuracy is below {goal} with the interval. {precision}".strip()
    if found.n < least:
        first = f"{n} cannot show {goal}: even with every answer right it takes {least}"
    else:
        first = f"{n} do not show {goal}"
    more = (
        f"at {100 * found.accuracy:.1f} % right it takes about {needed}"
        if needed is not None
        else f"at {100 * found.accuracy:.1f} % right no number of cases would"
    )
    return f"{first}; {more}. {precision}".strip()


def _cases(n: int) -> str:
    return "1 case" if n == 1 else f"{n} cases"


def _shown(interval: Interval | None, target: float) -> bool:
    return interval is not None and interval[0] >= target
