"""The cases as the page's script reads them: one JSON object, its text safe inside a script element."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mlx_medlora.evaluation.results import Prediction
from mlx_medlora.report.sources import Evidence, Options
from mlx_medlora.report.thumbnails import Progress, thumbnails
from mlx_medlora.report.words import last_part, plain

NEAR = 0.1  # a probability this close to the threshold is a near-miss
ROOM = 36_000_000  # bytes of cases and images together; the rest of the page takes under 1 MB
GRAVITY = ("critical", "high", "moderate", "low", "none")
OUTCOMES = {
    "missed": "Missed error: called CORRECT",
    "flagged": "Valid treatment flagged as ERROR",
    "unreadable": "No verdict could be read",
    "found": "Error found",
    "valid": "Valid treatment found valid",
}


def outcome(found: Prediction) -> str:
    """One of OUTCOMES."""
    if found.predicted is None:
        return "unreadable"
    if found.label == "ERROR":
        return "found" if found.correct else "missed"
    return "valid" if found.correct else "flagged"


def is_near(found: Prediction) -> bool:
    """Whether the probability lies within NEAR of the threshold: a little less and the verdict turns."""
    p, threshold = found.probability, found.threshold
    return p is not None and threshold is not None and abs(p - threshold) <= NEAR


def case_data(
    evidence: Evidence, options: Options, progress: Progress | None = None, room: int = ROOM
) -> Markup | None:
    """The JSON of every case in about `room` characters, or None where the page may hold none."""
    if options.redact:
        return None
    changes = _changes(evidence)
    shared: dict[str, int] = {}  # instructions, which many cases have in common
    files: dict[Path, int] = {}
    rows = [_row(one, evidence, options, changes, shared, files) for one in evidence.predictions]
    text = _safe({"rows": rows, "instructions": list(shared), "outcomes": OUTCOMES, "gravity": GRAVITY})
    small = thumbnails(list(files), room - len(text.encode()), progress)
    return Markup(text[:-1] + ',"images":' + _safe(small) + "}")  # escaped above, for a script element


def _row(
    found: Prediction,
    evidence: Evidence,
    options: Options,
    changes: dict[str, str],
    shared: dict[str, int],
    files: dict[Path, int],
) -> dict[str, Any]:
    case = evidence.cases.get(found.id)
    row: dict[str, Any] = {
        "id": plain(found.id),
        "outcome": outcome(found),
        "near": is_near(found),
        "modality": plain(found.modality),
        "label": found.label,
        "said": found.predicted,
        "p": found.probability,
        "threshold": found.threshold,
        "severity": plain(found.severity),
        "error_type": plain(found.error_type),
        "patient": None if found.patient_id is None else plain(found.patient_id),
        "text": None if found.text is None else plain(found.text),
        "change": changes.get(found.id),
    }
    if case is not None:
        row["instruction"] = shared.setdefault(plain(case.instruction), len(shared))
        row["input"], row["right"] = plain(case.input), plain(case.output)
    if options.images:
        paths = evidence.images.get(found.id, ())
        row["images"] = [files.setdefault(path, len(files)) for path in paths]
        row["names"] = [last_part(path) for path in found.image_paths]
    return {key: value for key, value in row.items() if value is not None}


def _changes(evidence: Evidence) -> dict[str, str]:
    """Cases won and lost against the first run, where this run is the last of a comparison."""
    pairs: Sequence[Any] = evidence.pairs()
    if not pairs:
        return {}
    last = pairs[-1]
    return {**dict.fromkeys(last.won, "won"), **dict.fromkeys(last.lost, "lost")}


def _safe(value: object) -> str:
    """JSON without a character that could end the element it stands in, or open another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text
