"""Shares as text: no rounding says that nothing or everything was right where a case was not."""

from __future__ import annotations

_EXACT = 1e-9  # bounds that were computed as 1 can come out a last bit below it


def places(value: float) -> str:
    """0.9 -> `90.0`; `0.0` and `100.0` of exactly 0 and 1 alone, else `< 0.1` and `> 99.9`."""
    text = f"{100 * value:.1f}"
    if text in ("0.0", "-0.0"):
        return "0.0" if abs(value) < _EXACT else "< 0.1" if value > 0 else "> -0.1"
    if text == "100.0" and abs(value - 1) >= _EXACT:
        return "> 99.9" if value < 1 else text
    return text


def percent(value: float) -> str:
    """0.9 -> `90.0 %`."""
    return f"{places(value)} %"


def between(interval: tuple[float, float]) -> str:
    """(0.812, 0.95) -> `81.2-95.0`, with ` to ` between them where a sign is in one."""
    low, high = (places(end) for end in interval)
    return f"{low} to {high}" if "<" in low + high or ">" in low + high else f"{low}-{high}"
