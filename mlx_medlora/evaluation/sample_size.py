"""How many cases a claim takes: so many that they would show it four times in five (80 % power).

Of independent patients; several cases of one are worth less, which the design effect tells: how many times
as many cases as independent ones the interval seen takes.
"""

from __future__ import annotations

import math

from mlx_medlora.evaluation.intervals import LEVEL, Interval, normal_quantile, wilson_effective
from mlx_medlora.evaluation.results import SampleSize, Scores

POWER = 0.8


def cases_to_show(share: float, bound: float, level: float = LEVEL, power: float = POWER) -> int | None:
    """How many cases it takes for Wilson's interval to leave `bound` out with chance `power`.

    `share` is the true one. The usual number for a share against a limit (Fleiss, Levin and Paik 2003,
    section 2.5): Wilson's bound is the share from which the one seen is z standard errors away. None where
    the share is at the bound: no number would do.
    """
    found = _to_show(share, bound, level, power)
    return None if found is None else max(1, math.ceil(found - 1e-9))


def _to_show(share: float, bound: float, level: float = LEVEL, power: float = POWER) -> float | None:
    if math.isclose(share, bound):
        return None
    from scipy.stats import norm

    seen = float(norm.ppf(power)) * math.sqrt(share * (1 - share))
    limit = normal_quantile(level) * math.sqrt(bound * (1 - bound))
    return ((limit + seen) / (share - bound)) ** 2


def design_effect(share: float, interval: Interval, n: int, bound: float, level: float = LEVEL) -> float:
    """How many of these `n` cases are worth one independent case, by the interval's side that faces `bound`.

    1 where the interval is Wilson's; more where patients have several cases that go alike (Kish 1965).
    """
    z = normal_quantile(level)
    low, high = interval
    for edge in (low, high) if bound <= share else (high, low):
        if 0 < edge < 1 and not math.isclose(edge, share):
            effect = n * (share - edge) ** 2 / (z * z * edge * (1 - edge))
            return effect if effect > 1 + 1e-6 else 1.0
    return 1.0


def cases_needed(share: float, interval: Interval, n: int, bound: float) -> int | None:
    """`cases_to_show` for cases of as many a patient as these `n`, of which `interval` was made."""
    found = _to_show(share, bound)
    if found is None:
        return None
    return max(1, math.ceil(found * design_effect(share, interval, n, bound) - 1e-9))


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


def sample_size(found: Scores, target: float, margin: float, worth: float | None = None) -> SampleSize:
    """What the accuracy of `found` would take to show `target`, and to be known to `margin`.

    `worth` is how many independent cases its patients are, if every one of them is all right or all wrong.
    """
    assert found.accuracy is not None
    assert found.accuracy_interval is not None
    seen, interval = found.accuracy, found.accuracy_interval
    least = cases_to_show(1.0, target)
    assert least is not None
    effect = design_effect(seen, interval, found.n, target)
    hardest = min(max(0.5, interval[0]), interval[1])  # the accuracy in the interval that takes most cases
    told = SampleSize(
        n=found.n,
        target=target,
        for_target=cases_needed(seen, interval, found.n, target) if seen > target else None,
        least=least,
        margin=margin,
        for_margin=math.ceil(effect * cases_for_margin(hardest, margin)),
        design_effect=effect,
        power=POWER,
        sentence="",
    )
    enough = (found.n if worth is None else worth) >= least
    first = _first(found, told, enough)
    precision = _precision(seen, interval, hardest, told)
    return told.model_copy(update={"sentence": f"{first}. {precision}".strip()})


def _first(found: Scores, told: SampleSize, enough: bool) -> str:
    n, goal = _cases(found), f"{100 * told.target:g} %"
    assert found.accuracy is not None
    assert found.accuracy_interval is not None
    low, high = found.accuracy_interval
    if low >= told.target:
        return f"{n}: accuracy is above {goal} with the interval"
    if high < told.target:
        return f"{n}: accuracy is below {goal} with the interval"
    first = f"{n} do not show {goal}"
    if not enough:
        kind = " patients" if found.patients < found.n else ""
        first = f"{n} cannot show {goal}: even with every answer right it takes {told.least}{kind}"
    if told.for_target is None:
        return f"{first}; at {100 * found.accuracy:.1f} % right no number of cases would"
    if found.accuracy >= 1 and not enough:
        return first
    each = " such cases" if found.patients < found.n else ""
    power = f"{100 * told.power:g} % power"
    return f"{first}; at {100 * found.accuracy:.1f} % right it takes about {told.for_target}{each} ({power})"


def _precision(seen: float, interval: Interval, hardest: float, told: SampleSize) -> str:
    """How many cases the margin takes, as a sentence; none where they are there already."""
    if max(seen - interval[0], interval[1] - seen) <= told.margin:
        return ""
    now = math.ceil(told.design_effect * cases_for_margin(seen, told.margin))
    least = f"about {now} cases of as many patients" if told.design_effect == 1 else f"about {now} such cases"
    most = f", {told.for_margin} if it is {100 * hardest:.1f} %" if told.for_margin > now else ""
    return f"Knowing it to {100 * told.margin:g} points takes {least} if it is {100 * seen:.1f} %{most}."


def _cases(found: Scores) -> str:
    cases = "1 case" if found.n == 1 else f"{found.n} cases"
    patients = "1 patient" if found.patients == 1 else f"{found.patients} patients"
    return cases if found.patients >= found.n else f"{cases} of {patients}"
