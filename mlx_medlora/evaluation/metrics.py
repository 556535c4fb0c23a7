"""The scorecard: every figure of all cases together, and of each group of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.calibration import reliability
from mlx_medlora.evaluation.gate import TARGET
from mlx_medlora.evaluation.intervals import kish
from mlx_medlora.evaluation.measures import scores
from mlx_medlora.evaluation.misses import misses
from mlx_medlora.evaluation.results import AppliedPoint, Prediction, Scorecard, Scores
from mlx_medlora.evaluation.sample_size import sample_size
from mlx_medlora.evaluation.tally import Tally

FIELDS = ("modality", "error_type", "severity")
MOST_GROUPS = 60
NOT_STATED = "not stated"
MARGIN = 0.05


def score(
    predictions: Sequence[Prediction],
    *,
    by: Sequence[str] = (),
    point: AppliedPoint | None = None,
    target: float = TARGET,
    margin: float = MARGIN,
) -> Scorecard:
    """The scorecard of these answers, by modality, error type, severity and the metadata fields `by`.

    `point` is the operating point that was applied to them, `target` and `margin` the accuracy and the
    half-width for which the number of cases is told. Raises InputError as `check_fields`.
    """
    check_fields(by, [p.metadata for p in predictions])
    tally = Tally.of(predictions)
    whole = scores(tally)
    groups = {field: _groups(field, predictions, tally) for field in dict.fromkeys((*FIELDS, *by))}
    temperature = 1.0 if point is None else point.temperature
    calibration = reliability(tally, temperature)
    return Scorecard(
        **dict(whole),
        by_modality=groups["modality"],
        by=groups,
        misses=misses(predictions),
        calibration=calibration,
        calibration_before=None if point is None else reliability(tally),
        operating_point=point,
        sample_size=None if whole.accuracy is None else sample_size(whole, target, margin, _worth(tally)),
    )


def _worth(tally: Tally) -> float:
    return kish(np.bincount(tally.patient))


def _groups(field: str, predictions: Sequence[Prediction], tally: Tally) -> dict[str, Scores]:
    values = [_value(field, p) for p in predictions]
    names = sorted(set(values) - {NOT_STATED}) + [NOT_STATED] * (NOT_STATED in values)
    column = np.array(values, object)
    return {name: scores(tally.where(column == name)) for name in names}


def _value(field: str, prediction: Prediction) -> str:
    """What a case has in a field, as text."""
    if field in FIELDS:
        return str(getattr(prediction, field))
    return _text(prediction.metadata.get(field))


def _text(value: Any) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        return NOT_STATED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def check_fields(by: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError for a field that none of these cases has, or one of too many values."""
    for field in by:
        values = {_text(one.get(field)) for one in metadata} - {NOT_STATED}
        if field not in FIELDS and not values:
            known = ", ".join(sorted({name for one in metadata for name in one}))
            more = " Several are given as --by A --by B." if "," in field else ""
            raise InputError(
                f"no case has the metadata field {field!r}", hint=f"Their fields: {known}.{more}"
            )
        if len(values) > MOST_GROUPS:
            raise InputError(
                f"the metadata field {field!r} has {len(values)} values, more than {MOST_GROUPS}",
                hint="Put a coarser field into the cases' metadata: `age_group` for an age.",
            )
