"""How far a share measured on few cases can be trusted."""

from __future__ import annotations

LEVEL = 0.95


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float] | None:
    """Wilson's score interval of a share (Wilson 1927), or None where there are no cases.

    It treats the cases as independent. Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes out of {n} cases")
    if n == 0:
        return None
    from scipy.stats import binomtest  # half a second to import: only when a figure is made

    interval = binomtest(successes, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)
