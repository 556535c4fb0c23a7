"""What anything must beat: keyword rules over the text, and the commoner answer.

Neither sees the image. The rules look for a contradiction in words: a finding that is denied beside a
treatment that does something, or a finding that is claimed beside a treatment that does nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from mlx_medlora.cases.card import Label, sections
from mlx_medlora.cases.schema import Case
from mlx_medlora.evaluation.results import Prediction

DENIED = re.compile(
    r"\b(no|not|without|normal|clear(ed)?|benign|unremarkable|negative|absent|regular|resolved|healthy"
    r"|homogeneous|bi-rads [12])\b",
    re.IGNORECASE,
)
NOTHING_DONE = re.compile(
    r"\b(no|not|without|reassur\w*|routine|discharge|supportive|symptomatic|simple|observ\w*|watchful"
    r"|conservative|return|annual|follow-up)\b",
    re.IGNORECASE,
)

HEURISTIC = (
    "keyword rules: ERROR where the finding is denied and the treatment does something, or the finding is "
    "claimed and the treatment does nothing"
)


def heuristic(case: Case) -> Label:
    """The keyword rules' verdict; CORRECT where the text has no finding or no treatment under a heading."""
    finding, treatment = _parts(case)
    if not finding or not treatment:
        return "CORRECT"
    denied, nothing = bool(DENIED.search(finding)), bool(NOTHING_DONE.search(treatment))
    return "ERROR" if denied != nothing else "CORRECT"


def readable(case: Case) -> bool:
    """Whether the keyword rules find a finding and a treatment under headings."""
    return all(_parts(case))


def _parts(case: Case) -> tuple[str, str]:
    """The text of the finding and of the treatment; empty where there is no such heading."""
    parts = sections(case.input)
    finding, treatment = (
        " ".join(text for name, text in parts if wanted in name) for wanted in ("finding", "treatment")
    )
    return finding, treatment


def commoner(cases: Sequence[Case]) -> Label:
    """The commoner right answer; ERROR where both are as common."""
    errors = sum(case.label == "ERROR" for case in cases)
    return "ERROR" if 2 * errors >= len(cases) else "CORRECT"


def answered_by(
    rule: Callable[[Case], Label], cases: Sequence[Case], like: Sequence[Prediction]
) -> list[Prediction]:
    """The rule's answers to `cases`, which are those that `like` answers, in its order."""
    found = []
    for case, row in zip(cases, like, strict=True):
        said = rule(case)
        known = {"method": "generate", "p_error": None, "p_calibrated": None, "threshold": None}
        answer = {"text": said, "predicted": said, "correct": said == case.label}
        found.append(row.model_copy(update=known | answer))
    return found
