"""Which verdicts `eval` counts: the model's own, or those of the adapter's operating point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from mlx_medlora.evaluation.results import AppliedPoint, OperatingPoint, Prediction


def point_of(adapter: Path | None, method: str, ignore: bool) -> OperatingPoint | None:
    """The adapter's operating point where it is to be used; read before the model loads."""
    from mlx_medlora.evaluation.operating_point import read_point

    if adapter is None or ignore or not adapter.is_dir():
        return None
    point = read_point(adapter)
    if point is not None and method == "generate":
        out.note(
            "The adapter's operating point is for --method score: written answers are taken as they stand."
        )
        return None
    return point


def decided_by(
    point: OperatingPoint | None, predictions: list[Prediction], model: str, split_sha256: str
) -> tuple[list[Prediction], AppliedPoint | None]:
    """The answers by the operating point, if there is one, with warnings of what speaks against it."""
    from mlx_medlora.evaluation.operating_point import apply_point
    from mlx_medlora.gemma.fingerprint import fingerprint
    from mlx_medlora.gemma.hub import resolve

    if point is None:
        return predictions, None
    mine = fingerprint(resolve(model))
    decided, applied = apply_point(point, predictions, split_sha256=split_sha256, model_fingerprint=mine)
    for warning in applied.warnings:
        out.warning(warning)
    return decided, applied


def redecided(point: OperatingPoint | None, predictions: list[Prediction]) -> list[Prediction]:
    """Further answers by the same operating point."""
    from mlx_medlora.evaluation.operating_point import decided

    if point is None:
        return predictions
    return [decided(row, point.temperature, point.threshold) for row in predictions]
