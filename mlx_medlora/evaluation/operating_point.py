"""The operating point: a temperature and a threshold, chosen once and kept with the adapter.

It belongs to the adapter's weights (by their SHA-256) and to verdicts scored by probability; written answers
are what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlx_medlora.atomic import atomic_file
from mlx_medlora.cases.card import Label
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.adapters import digest
from mlx_medlora.evaluation.results import AppliedPoint, OperatingPoint, Prediction
from mlx_medlora.evaluation.runs import POINT
from mlx_medlora.evaluation.temperature import tempered
from mlx_medlora.files import read_json, write_json
from mlx_medlora.gemma.tensorfiles import refused_pickle
from mlx_medlora.lora.formats import detect
from mlx_medlora.settings import StrictModel, validate

AGAIN = "Choose it again with `mlx-medlora calibrate`, or go without it: --ignore-operating-point."
OTHER_FORM = "the threshold was chosen on another form of the model (other packing, or another base)"


class OneVerdict(StrictModel):
    """What the operating point makes of one answer, outside an evaluation."""

    p_error: float
    p_calibrated: float
    threshold: float
    verdict: Label

    def __str__(self) -> str:
        return (
            f"By the operating point: {self.verdict} (probability of ERROR {self.p_calibrated:.3f}, "
            f"flagged from {self.threshold:.3f} on)"
        )


def weights_sha256(adapter: Path) -> str:
    """SHA-256 of the adapter's weights, whoever wrote them. Raises InputError for pickles or none."""
    detect(adapter)
    found = digest(adapter)
    if found is None:
        raise refused_pickle(adapter) or InputError("it has no weights", path=adapter)
    return found


def write_point(adapter: Path, point: OperatingPoint, *, replace: bool = False) -> Path:
    """Write `operating_point.json` into the adapter directory in one move; nothing else there is touched.

    Raises InputError where there is one already, unless `replace`.
    """
    refuse_existing(adapter, replace=replace)
    with atomic_file(adapter / POINT, private=True) as partial:
        write_json(partial, point.model_dump(mode="json"))
    return adapter / POINT


def refuse_existing(adapter: Path, *, replace: bool) -> None:
    """Raise InputError where the adapter has an operating point, unless it is to be replaced."""
    if (adapter / POINT).exists() and not replace:
        message = "the adapter has an operating point already"
        raise InputError(message, path=adapter / POINT, hint="--replace chooses it again.")


def read_point(adapter: Path) -> OperatingPoint | None:
    """The adapter's operating point, None where it has none.

    Raises InputError where the file is damaged, or was chosen for other weights than those beside it.
    """
    path = adapter / POINT
    if not path.exists():
        return None
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected an object", path=path, hint=AGAIN)
    point = validate(OperatingPoint, raw, path=path)
    if point.weights_sha256 != weights_sha256(adapter):
        raise InputError("it was chosen for other weights than those beside it", path=path, hint=AGAIN)
    return point


def apply_point(
    point: OperatingPoint, predictions: Sequence[Prediction], *, split_sha256: str, model_fingerprint: str
) -> tuple[list[Prediction], AppliedPoint]:
    """Scored answers decided anew, and the point as it was used, with what speaks against it."""
    same = point.split_sha256 == split_sha256
    warnings = []
    if same:
        warnings.append(
            "the threshold was chosen on these very cases: the figures are better than new cases give"
        )
    if point.model_fingerprint != model_fingerprint:
        warnings.append(OTHER_FORM)
    used = point.model_dump(include=set(AppliedPoint.model_fields))
    applied = AppliedPoint(**used, same_cases=same, warnings=tuple(warnings))
    return [decided(row, point.temperature, point.threshold) for row in predictions], applied


def judge_one(point: OperatingPoint, p_error: float) -> OneVerdict:
    """One probability by the operating point."""
    p = calibrated(p_error, point.temperature)
    verdict: Label = "ERROR" if p >= point.threshold else "CORRECT"
    return OneVerdict(p_error=p_error, p_calibrated=p, threshold=point.threshold, verdict=verdict)


def calibrated(p_error: float, temperature: float) -> float:
    """One probability after the temperature."""
    return float(tempered(np.array([p_error]), temperature)[0])


def decided(row: Prediction, temperature: float, threshold: float) -> Prediction:
    """A scored answer by another temperature and threshold; a written one as it is."""
    if row.p_error is None:
        return row
    p = calibrated(row.p_error, temperature)
    predicted = "ERROR" if p >= threshold else "CORRECT"
    changed = {"p_calibrated": p, "threshold": threshold, "predicted": predicted}
    return row.model_copy(update=changed | {"correct": predicted == row.label})
