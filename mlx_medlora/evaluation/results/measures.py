"""One figure with its interval, and the figures of one group of cases."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from mlx_medlora.settings import StrictModel

Interval = tuple[float, float]


def _ordered(interval: Interval) -> Interval:
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError("the ends of a share's interval rise between 0 and 1")
    return interval


# What is read of a share, from files that others may have written.
ShareInterval = Annotated[Interval, AfterValidator(_ordered)]


class Measure(StrictModel):
    """One figure of one group of cases.

    `n` cases stand behind it; `count` of them where it is a share (`count / n`), else None. `value` or
    `interval` is None where it cannot be had, and `reason` says why. `card_name` is the dataset card's
    name for it, which for three rates is the reverse of a textbook's.

    `unreadable` answers are left out of what the figure counts against the model; `strict_interval` is the
    interval with each of them counted against it, None where there are none. Gates look at both.
    """

    name: str
    value: float | None
    n: int
    meaning: str
    count: int | None = None
    interval: Interval | None = None
    interval_method: str | None = None
    card_name: str | None = None
    reason: str | None = None
    unreadable: int = 0
    strict_interval: Interval | None = None


class Confusion(StrictModel):
    """Counts by the right answer and the one given: `error_as_correct` are missed errors."""

    error_as_error: int
    error_as_correct: int
    error_unreadable: int
    correct_as_error: int
    correct_as_correct: int
    correct_unreadable: int


class Scores(StrictModel):
    """The figures of one group of cases. An unreadable answer is wrong, and counted in `invalid` too.

    `errors` and `valid` count the cases whose right answer is ERROR and CORRECT. `patients` counts those
    that could be resampled: a case without a `patient_id` is its own. `measures` holds every figure by
    name, the first ones again.
    """

    accuracy: float | None
    n: int
    correct: int
    accuracy_interval: Interval | None
    tpr: Measure
    tnr: Measure
    fpr: Measure
    invalid: int
    invalid_rate: float | None
    errors: int
    valid: int
    patients: int
    confusion: Confusion
    measures: dict[str, Measure]
