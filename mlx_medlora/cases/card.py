"""The dataset card's wording: the instruction, the Markdown of a case and its answers."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Literal

Label = Literal["ERROR", "CORRECT"]

INSTRUCTION = (
    "You are a medical AI assistant trained to detect clinical errors. "
    "Compare the treatment with the medical image. Answer ERROR or CORRECT with a short reason."
)
TEXT_INSTRUCTION = INSTRUCTION.replace("medical image", "reported finding")  # of a case without an image

CORRECT_ANSWER = "CORRECT - Treatment matches imaging findings"

_ERROR_REASONS = {
    "overtreatment": "Overtreatment, the {source} does not support this therapy",
    "unnecessary_procedure": "Unnecessary procedure, the {source} does not support it",
    "undertreatment": "Undertreatment, the {source} shows a finding left untreated",
}

NOT_STATED = "Not stated"
_HEADING = re.compile(r"^\*\*([^*\n]+)\*\*:?[ \t]*", re.MULTILINE)


def case_text(age: int | str, gender: str, finding: str, treatment: str) -> str:
    """The input of a case in Markdown: patient, finding, treatment. An empty age or gender is left out."""
    given = {"Age": str(age).strip(), "Gender": gender.strip()}
    patient = [f"- {name}: {value}" for name, value in given.items() if value]
    sections = ["\n".join(["**Patient Information:**", *(patient or ["- Not recorded"])])]
    sections += [f"**Imaging Finding:**\n{finding}", f"**Treatment:**\n{treatment}"]
    return "\n\n".join(sections)


def sections(text: str) -> list[tuple[str, str]]:
    """(heading in lower case, what stands under it) of a case's input, in order."""
    headings = list(_HEADING.finditer(text))
    return [
        (heading[1].lower(), text[heading.end() : None if following is None else following.start()].strip())
        for heading, following in zip_longest(headings, headings[1:])
    ]


def without_finding(text: str) -> str | None:
    """The input of a case with what stands under its finding's heading removed; None without such a heading.

    A heading is bold and at the beginning of a line, and has the word `finding` in it, in any case.
    """
    headings = list(_HEADING.finditer(text))
    kept, place = [], 0
    for heading, following in zip_longest(headings, headings[1:]):
        if "finding" in heading[1].lower():
            kept += [text[place : heading.end()].rstrip(), f"\n{NOT_STATED}\n\n"]
            place = len(text) if following is None else following.start()
    return "".join([*kept, text[place:]]).rstrip() if kept else None


def answer(label: Label, error_type: str = "none", *, image: bool = True) -> str:
    """The output of a case, `CORRECT - ...` or `ERROR - ...` with the reason its error type names.

    Without an `image` the reason speaks of the report.
    """
    if label == "CORRECT":
        return CORRECT_ANSWER
    reason = _ERROR_REASONS.get(error_type, "Treatment does not match imaging findings")
    return f"ERROR - {reason.format(source='image' if image else 'report')}"
