"""Runs on the same cases, held against the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_medlora.atomic import atomic_file
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.cautions import cautions
from mlx_medlora.evaluation.intervals import LEVEL
from mlx_medlora.evaluation.paired import newcombe, paired_difference
from mlx_medlora.evaluation.results import NOTICE, Comparison, Paired, RunSummary
from mlx_medlora.evaluation.runs import Run
from mlx_medlora.evaluation.tally import Tally
from mlx_medlora.files import write_json

SWAPS = 9_999
COMPARISON = "comparison.json"

__all__ = ["COMPARISON", "compare", "holm", "mcnemar", "newcombe", "paired_difference", "write_comparison"]


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
    summaries = [_summary(run, name) for run, name in zip(runs, names, strict=True)]
    warned = {run.name for run in summaries if run.warnings}
    adjusted = holm([pair.p_value if pair.p_patients is None else pair.p_patients for pair in found])
    return Comparison(
        n=first.scorecard.n,
        split=str(first.scorecard.about.get("split")),
        split_sha256=str(first.scorecard.about.get("split_sha256")),
        runs=summaries,
        pairs=[
            pair.model_copy(update={"p_adjusted": p, "sentence": _sentence(pair, p) + _mind(pair, warned)})
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


def _mind(pair: Paired, warned: set[str]) -> str:
    """Which of the two runs stands under a warning that the test knows nothing of."""
    names = [name for name in (pair.first, pair.second) if name in warned]
    return f". The test knows nothing of the warnings on {' and '.join(names)}" if names else ""


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
        warnings=cautions(run),
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
