"""What the ladder finds: a rung, a probe, and all of them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlx_medlora.settings import StrictModel

Array = npt.NDArray[Any]
FLOOR = 1e-5
TRAINED = 1e-4


class Rung(StrictModel):
    """One comparison. `noise` is transformers' own, eager against sdpa, on the same inputs.

    Errors are the largest difference over the reference's largest value, unless `unit` says otherwise.
    """

    number: int
    name: str
    status: Literal["passed", "failed", "not applicable"]
    error: float | None = None
    tolerance: float | None = None
    noise: float | None = None
    unit: str = "of the largest"
    detail: str = ""


class Probe(StrictModel):
    """A property that both sides must have, measured on ours."""

    name: str
    status: Literal["passed", "failed", "not applicable"]
    value: float | None = None
    detail: str = ""


def judged(
    number: int,
    name: str,
    error: float,
    tolerance: float,
    noise: float | None = None,
    detail: str = "",
    **more: Any,
) -> Rung:
    """A rung that passes where `error` is a number within `tolerance`."""
    status: Literal["passed", "failed"] = "passed" if error <= tolerance else "failed"
    return Rung(
        number=number,
        name=name,
        status=status,
        error=error if np.isfinite(error) else None,
        tolerance=tolerance,
        noise=noise,
        detail=detail if np.isfinite(error) else f"{detail} (not a number)",
        **more,
    )


def skipped(number: int, name: str, reason: str) -> Rung:
    """A rung that this checkpoint has no use for."""
    return Rung(number=number, name=name, status="not applicable", detail=reason)


def distance(found: Array, wanted: Array) -> float:
    """Largest difference over the largest wanted value; infinity where shapes differ or a NaN appears."""
    if found.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    largest = float(np.abs(wanted).max())
    gap = float(np.abs(found.astype(np.float64) - wanted.astype(np.float64)).max())
    value = gap / largest if largest else gap
    return value if np.isfinite(value) else float("inf")


def tolerance(noise: float) -> float:
    """Three times the reference's own noise, or 1e-5, whichever is larger."""
    return max(3 * noise, FLOOR)
