"""Numbers and foreign text in the form the page shows them."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath, PureWindowsPath

from mlx_medlora.evaluation.results import GateResult, Measure
from mlx_medlora.evaluation.results.measures import Interval
from mlx_medlora.evaluation.shown import NO_SHARES
from mlx_medlora.percent import places

RATES = NO_SHARES
ABSENT = "n/a"  # a figure that cannot be had; its reason stands beside
NARROW = "\u00a0"
SYMBOLS = {"pass": "✓", "fail": "✗", "undecided": "?"}
_TITLES = {
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "tpr": "TPR",
    "tnr": "TNR",
    "fpr": "FPR",
    "kl": "KL",
}

_CARD = {
    "tpr": "valid treatments found valid",
    "tnr": "errors found",
    "fpr": "valid treatments flagged",
}

# What a browser does not show, or what turns the reading direction of the text around it.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]")
_HALF = re.compile("[\ud800-\udfff]")  # half of a pair: JSON can hold it, UTF-8 cannot


def plain(text: object) -> str:
    """Any text with its invisible control characters spelt out: `⟨U+202E⟩`. Line breaks and tabs stay."""
    whole = _HALF.sub("\ufffd", str(text).replace("\r\n", "\n"))
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found.group()):04X}⟩", whole)


def short(text: object, most: int = 60) -> str:
    """`plain`, on one line and cut to `most` characters."""
    line = " ".join(plain(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def last_part(path: object) -> str:
    """The name at the end of a path: who reads the page need not know whose machine it was."""
    text = str(path)
    name = PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name
    return plain(name or text)


def title(name: str) -> str:
    """`false_flag_rate` -> `False flag rate`; abbreviations in capitals."""
    return _TITLES.get(name, plain(name).replace("_", " ").capitalize())


def demand(measure: str) -> str:
    """A gate's measure by its name; the card's three rates with their meaning, the reverse of textbooks'."""
    meaning = _CARD.get(measure)
    return title(measure) if meaning is None else f"{title(measure)} ({meaning})"


def number(value: object) -> str:
    """Any setting as text: floats without noise, None as `none`."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else "not a number"
    if isinstance(value, (list, tuple)):
        return ", ".join(number(one) for one in value) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{plain(key)}: {number(one)}" for key, one in value.items()) or "none"
    return plain(value)


def percent(value: float | None) -> str:
    """0.9 -> `90.0 %`, its spaces ones that do not break; None -> `n/a`."""
    return ABSENT if value is None else f"{places(value)} %".replace(" ", NARROW)


def figure(found: Measure | GateResult, *, rate: bool | None = None) -> str:
    """A measure's value: a percentage, or three places where it is no share; `n/a` where it has none."""
    if found.value is None:
        return ABSENT
    return f"{found.value:.3f}" if _is_rate(found, rate) else percent(found.value)


def interval(found: Measure | GateResult, *, rate: bool | None = None) -> str:
    """`81.2 to 95.0 %`, or `no interval`."""
    if found.value is None or found.interval is None:
        return "no interval"
    low, high = found.interval
    return f"{low:.3f} to {high:.3f}" if _is_rate(found, rate) else span(found.interval)


def _is_rate(found: Measure | GateResult, rate: bool | None) -> bool:
    name = found.measure if isinstance(found, GateResult) else found.name
    return name in RATES if rate is None else rate


def span(bounds: Interval | None) -> str:
    """(0.812, 0.95) -> `81.2 to 95.0 %`."""
    if bounds is None:
        return "no interval"
    low, high = (places(bound).replace(" ", NARROW) for bound in bounds)
    return f"{low} to {high}{NARROW}%"


def within(bounds: Interval | None) -> str:
    """(0.1, 0.25) -> `0.100 to 0.250`, of what is no share."""
    return "no interval" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def points(found: Measure) -> str:
    """A difference in percentage points with its interval."""
    if found.value is None:
        return ABSENT
    if found.interval is None:
        return f"{100 * found.value:+.1f} points (no interval)"
    low, high = found.interval
    return f"{100 * found.value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def group_name(gate: GateResult) -> str:
    """`all cases`, or `modality xray`."""
    if gate.group is None:
        return "all cases"
    return ", ".join(f"{short(key)} {short(value)}" for key, value in gate.group.items())
