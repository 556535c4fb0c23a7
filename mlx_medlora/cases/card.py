"""The dataset card's wording: the instruction, the Markdown of a case and its answers."""

from __future__ import annotations

from typing import Literal

Label = Literal["ERROR", "CORRECT"]

INSTRUCTION = (
    "You are a medical AI assistant trained to detect clinical errors. "
    "Compare the treatment with the medical image. Answer ERROR or CORRECT with a short reason."
)

CORRECT_ANSWER = "CORRECT - Treatment matches imaging findings"

_ERROR_REASONS = {
    "overtreatment": "Overtreatment, the image does not support this therapy",
    "unnecessary_procedure": "Unnecessary procedure, the image does not support it",
    "undertreatment": "Undertreatment, the image shows a finding left untreated",
}


def case_text(age: int | str, gender: str, finding: str, treatment: str) -> str:
    """The input of a case in Markdown: patient, finding, treatment. An empty age or gender is left out."""
    given = {"Age": str(age).strip(), "Gender": gender.strip()}
    patient = [f"- {name}: {value}" for name, value in given.items() if value]
    sections = ["\n".join(["**Patient Information:**", *(patient or ["- Not recorded"])])]
    sections += [f"**Imaging Finding:**\n{finding}", f"**Treatment:**\n{treatment}"]
    return "\n\n".join(sections)


def answer(label: Label, error_type: str = "none") -> str:
    """The output of a case, `CORRECT - ...` or `ERROR - ...` with the reason its error type names."""
    if label == "CORRECT":
        return CORRECT_ANSWER
    return f"ERROR - {_ERROR_REASONS.get(error_type, 'Treatment does not match imaging findings')}"
