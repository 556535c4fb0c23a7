"""Runs on the same cases, held against the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.bootstrap import percentile
from mlx_medlora.evaluation.intervals import LEVEL, Interval, wilson
from mlx_medlora.evaluation.results import NOTICE, Comparison, Measure, Paired, RunSummary
from mlx_medlora.evaluation.runs import Run
from mlx_medlora.evaluation.shares import union
from mlx_medlora.evaluation.tally import Bools, Ints, Tally
from mlx_medlora.files import atomic_file, write_json

SWAPS = 9_999
COMPARISON = "comparison.json"
DIFFERENCE = "accuracy of the second run less that of the first, on the same cases"


def compare(runs: Sequence[Run]) -> Comparison:
    """The runs in one table, and each later one against the first.

    Raises InputError for fewer than two runs, or where their cases, answers or images are not the same.
    """
    if len(runs) < 2:
        raise InputError("a comparison takes at least two runs")
    first, *others = runs
    for other in others:
        _refuse_other_cases(first, other)
    names = _names([run.directory for run in runs])
    found = [_paired(first, other, names[0], name) for other, name in zip(others, names[1:], strict=True)]
    adjusted = holm([pair.p_value if pair.p_patients is None else pair.p_patients for pair in found])
    return Comparison(
        n=first.scorecard.n,
        split=str(first.scorecard.about.get("split")),
        split_sha256=str(first.scorecard.about.get("split_sha256")),
        runs=[_summary(run, name) for run, name in zip(runs, names, strict=True)],
        pairs=[
            pair.model_copy(update={"p_adjusted": p, "sentence": _sentence(pair, p)})
            for pair, p in zip(found, adjusted, strict=True)
        ],
        notice=NOTICE,
    )


def write_comparison(path: Path, found: Comparison) -> None:
    """Write `comparison.json`, whole or not at all. Raises InputError where `path` is a directory."""
    if path.is_dir():
        raise InputError("is a directory; name a file", path=path, hint=f"Such as {path / COMPARISON}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, private=True) as partial:
        write_json(partial, found.model_dump(mode="json"))


def mcnemar(won: int, lost: int) -> float:
    """McNemar's exact two-sided p-value: that of `won` heads in `won + lost` fair throws; 1 for none."""
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm 1979), in the order given."""
    found, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        found[place] = largest
    return found


def newcombe(both: int, won: int, lost: int, neither: int, level: float = LEVEL) -> Interval:
    """Interval of a difference of two shares of the same cases, second less first.

    Newcombe 1998, paired data, method 10: Wilson's bounds of either share, put together with their
    correlation. `won` counts the cases that only the second has.
    """
    n = both + won + lost + neither
    second, first = both + won, both + lost
    a, b = wilson(second, n, level), wilson(first, n, level)
    assert a is not None
    assert b is not None
    below = float(second) * (n - second) * first * (n - first)
    cross = float(both * neither - won * lost)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)  # continuity, as the paper's method 10 has it
    phi = cross / below**0.5 if below else 0.0
    p, q = second / n, first / n
    down, up = (p - a[0], b[1] - q), (a[1] - p, q - b[0])
    low, high = ((x * x - 2 * phi * x * y + y * y) for x, y in (down, up))
    return max(-1.0, p - q - max(low, 0.0) ** 0.5), min(1.0, p - q + max(high, 0.0) ** 0.5)


def paired_difference(
    first: Bools, second: Bools, patient: Ints, *, name: str = "difference", meaning: str = DIFFERENCE
) -> Measure:
    """The share that is right in `second` (N,) less that in `first`, of the same cases.

    `patient` (N,) are numbers from 0. Where patients repeat, the interval is no narrower than by resampling
    them. Raises ValueError without cases.
    """
    if not len(first):
        raise ValueError("a difference takes at least one case")
    won, lost = int((second & ~first).sum()), int((first & ~second).sum())
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    plain = newcombe(both, won, lost, neither)
    interval: Interval | None = plain
    method: str | None = "Newcombe, paired"
    reason = None
    sizes = np.bincount(patient)
    if sizes.max() > 1:
        interval, method, reason = None, None, bootstrap.FEW
        if len(sizes) >= bootstrap.LEAST:
            steps = second.astype(np.float64) - first
            sums, weighed = np.bincount(patient, steps), sizes.astype(np.float64)
            values = [(w @ sums) / (w @ weighed) for w in bootstrap.weights(len(sizes))]
            drawn, reason = percentile(np.concatenate(values))
            if drawn is not None:
                interval, method = union(plain, drawn), "bootstrap over patients, at least Newcombe"
    return Measure(
        name=name,
        value=(won - lost) / len(first),
        n=len(first),
        meaning=meaning,
        interval=interval,
        interval_method=method,
        reason=reason,
    )


def _paired(first: Run, second: Run, name: str, other: str) -> Paired:
    rows = list(zip(first.predictions, second.predictions, strict=True))
    won = [b.id for a, b in rows if b.correct and not a.correct]
    lost = [b.id for a, b in rows if a.correct and not b.correct]
    both = sum(a.correct and b.correct for a, b in rows)
    neither = len(rows) - both - len(won) - len(lost)
    p_value = mcnemar(len(won), len(lost))
    first_right, second_right = (np.array([p.correct for p in run.predictions]) for run in (first, second))
    return Paired(
        first=name,
        second=other,
        n=len(rows),
        both_right=both,
        both_wrong=neither,
        won=won,
        lost=lost,
        p_value=p_value,
        p_patients=_swapped(first, second),
        p_adjusted=p_value,
        difference=paired_difference(first_right, second_right, Tally.of(first.predictions).patient),
        sentence="",
    )


def _swapped(first: Run, second: Run) -> float | None:
    """Two-sided p-value of swapping the runs' answers patient by patient, where patients repeat.

    Drawn 9,999 times, the arrangement seen counted among them (Phipson and Smyth 2010).
    """
    tally = Tally.of(first.predictions)
    if not tally.repeated:
        return None
    sums = np.bincount(tally.patient, _steps(first, second), tally.patients)
    sums = sums[sums != 0]
    rng = np.random.default_rng(bootstrap.SEED)
    signs = 2.0 * rng.integers(0, 2, (SWAPS, len(sums))) - 1
    as_far = (np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9).sum()
    return float((1 + as_far) / (1 + SWAPS))


def _steps(first: Run, second: Run) -> list[int]:
    """For each case 1 where only the second run is right, -1 where only the first is."""
    return [
        int(b.correct) - int(a.correct) for a, b in zip(first.predictions, second.predictions, strict=True)
    ]


def _sentence(pair: Paired, p: float) -> str:
    value = pair.difference.value or 0.0
    counts = f"{len(pair.won)} won, {len(pair.lost)} lost of {pair.n}"
    if p >= 1 - LEVEL:
        return f"{pair.second} and {pair.first} cannot be told apart: {counts}, p = {p:.3g}{_though(pair)}"
    word = "better" if value > 0 else "worse"
    return f"{pair.second} is {word} than {pair.first}: {counts}, p = {p:.3g}"


def _though(pair: Paired) -> str:
    """What to make of an interval that leaves 0 out where the test sees no difference."""
    low, high = pair.difference.interval or (0.0, 0.0)
    if low <= 0 <= high:
        return ""
    return ". The interval of the difference leaves 0 out; the test is the stricter here, and it decides"


def _summary(run: Run, name: str) -> RunSummary:
    card = run.scorecard
    return RunSummary(
        name=name,
        directory=str(run.directory),
        about=card.about,
        accuracy=card.accuracy,
        accuracy_interval=card.accuracy_interval,
        measures=card.measures,
    )


def _names(directories: Sequence[Path]) -> list[str]:
    """The directories' last parts, or as much more as tells them apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise InputError("the same run is given twice", path=directories[0])


def _refuse_other_cases(first: Run, other: Run) -> None:
    mine, theirs = ([(p.id, p.label) for p in run.predictions] for run in (first, other))
    hint = "Evaluate both on the same split of the same dataset."
    if mine != theirs:
        apart = sorted({name for name, _ in set(mine) ^ set(theirs)})
        named = (
            f": {', '.join(apart[:3])}{' ...' if len(apart) > 3 else ''}" if apart else ", in another order"
        )
        message = f"its cases are not those of {first.directory} ({len(theirs)} against {len(mine)}{named})"
        raise InputError(message, path=other.directory, hint=hint)
    a, b = (run.scorecard.about.get("split_sha256") for run in (first, other))
    if a != b or a is None:
        message = f"its cases have the ids of {first.directory}, but not the same text or images"
        raise InputError(message, path=other.directory, hint=hint)
