"""Figures as text, the same for terminal, pictures, page and model card.

No rounding says that nothing or everything was right where a case was not: `> 99.9 %`, `< 0.1 %`.
"""

from __future__ import annotations

from mlx_medlora.evaluation.meanings import RATES
from mlx_medlora.evaluation.results.measures import Interval
from mlx_medlora.percent import between, percent

# Figures that are no share of anything, and so no percentage.
NO_SHARES = (*RATES, "brier", "ece", "log_loss", "kl", "loss_change")


def bounds(interval: Interval, *, share: bool = True) -> str:
    """(0.812, 0.95) -> `81.2-95.0`, or `0.812 to 0.950` of what is no share."""
    if not share:
        return f"{interval[0]:.3f} to {interval[1]:.3f}"
    return between(interval)


def amount(value: float, *, share: bool = True) -> str:
    """0.9 -> `90.0 %`, or `0.900` of what is no share."""
    return percent(value) if share else f"{value:.3f}"


def ranged(value: float, interval: Interval | None, *, share: bool) -> str:
    """0.9 with its interval: `90.0 % (85.0-93.0)` of a `share`, else `0.900 (0.850 to 0.930)`."""
    within = "no interval" if interval is None else bounds(interval, share=share)
    return f"{amount(value, share=share)} ({within})"
