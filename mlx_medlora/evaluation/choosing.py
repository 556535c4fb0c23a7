"""An operating point, chosen on cases whose right answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlx_medlora import __version__
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.calibration import reliability
from mlx_medlora.evaluation.measures import scores
from mlx_medlora.evaluation.operating_point import decided, weights_sha256
from mlx_medlora.evaluation.results import Measure, OperatingPoint, Prediction, Scores
from mlx_medlora.evaluation.results.calibration import Rule
from mlx_medlora.evaluation.sample_size import cases_to_show
from mlx_medlora.evaluation.tally import Tally
from mlx_medlora.evaluation.temperature import fit_temperature, tempered
from mlx_medlora.evaluation.threshold import choose_threshold


def choose(
    predictions: Sequence[Prediction],
    rule: Rule,
    limit: float,
    *,
    adapter: Path,
    model: str,
    model_fingerprint: str,
    split: str,
    split_sha256: str,
) -> OperatingPoint:
    """Fit the temperature on scored answers and choose the threshold that keeps `rule` on them.

    Raises InputError where all cases have the same right answer.
    """
    tally = Tally.of(predictions)
    if not tally.both_classes or tally.p is None:
        raise InputError(
            f"the split {split!r} has only cases of one right answer: no threshold can be chosen on it",
            hint="Choose a split with errors and valid treatments.",
        )
    temperature, remark = fit_temperature(tally.error, tally.p)
    p = tempered(tally.p, temperature)
    threshold = choose_threshold(tally.error, p, rule, limit)
    there = scores(Tally.of([decided(row, temperature, threshold) for row in predictions]))
    before, after = reliability(tally), reliability(tally, temperature)
    assert before is not None
    assert after is not None
    return OperatingPoint(
        temperature=temperature,
        threshold=threshold,
        rule=rule,
        limit=limit,
        weights_sha256=weights_sha256(adapter),
        model=model,
        model_fingerprint=model_fingerprint,
        split=split,
        split_sha256=split_sha256,
        n=there.n,
        errors=there.errors,
        valid=there.valid,
        sensitivity=there.tnr,
        false_flag_rate=there.fpr,
        ece_before=before.ece,
        ece_after=after.ece,
        ece_before_interval=before.ece_interval,
        ece_after_interval=after.ece_interval,
        notes=tuple(note for note in (remark, *_notes(there, rule, limit)) if note),
        mlx_medlora=__version__,
    )


def _notes(found: Scores, rule: Rule, limit: float) -> list[str]:
    """What a reader must know of the figures that were reached."""
    notes = ["these cases chose the threshold: expect worse on new ones"]
    if found.tnr.count == 0:
        notes.append("no error is found at this threshold")
    if found.fpr.count == found.fpr.n:
        notes.append("every valid treatment is flagged at this threshold")
    figure, name = (found.fpr, "false-flag rate") if rule == "max-false-flag" else (found.tnr, "sensitivity")
    if not _borne_out(figure, rule, limit):
        notes.append(f"the interval of the {name} reaches beyond {100 * limit:g} %{_more(figure, limit)}")
    return notes


def _borne_out(figure: Measure, rule: Rule, limit: float) -> bool:
    if figure.interval is None:
        return False
    return figure.interval[1] <= limit if rule == "max-false-flag" else figure.interval[0] >= limit


def _more(figure: Measure, limit: float) -> str:
    needed = None if figure.value is None or not 0 < limit < 1 else cases_to_show(figure.value, limit)
    kind = "valid treatments" if figure.name == "false_flag_rate" else "errors"
    return (
        ""
        if needed is None
        else f"; to show it at this rate takes about {needed} {kind} (80 % power), here {figure.n}"
    )
