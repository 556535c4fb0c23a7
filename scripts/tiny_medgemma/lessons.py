"""What the base is taught: to name what it sees, to know treatments, and to compare.

None of these lessons has the dataset card's instruction, layout or answers: the error-detection task and
its format stay unseen until LoRA teaches them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_medlora.cases import card
from mlx_medlora.cases.phantoms import MODALITIES
from mlx_medlora.cases.vignettes import VOCABULARY

NAMES = {
    "xray": "chest radiograph",
    "histopathology": "histology slide",
    "mri": "brain MRI",
    "ultrasound": "ultrasound scan",
}
SEEN = {True: "A finding is visible.", False: "Nothing abnormal is visible."}
SEE_QUESTIONS = (
    "Is a finding visible?",
    "What does the image show?",
    "Is anything abnormal here?",
    "Look at the image: finding or none?",
)
KINDS = {True: "This treats a disease.", False: "This is care without intervention."}
MATCH = {True: "Yes, they match.", False: "No, they differ."}


@dataclass(frozen=True)
class Lesson:
    """One exchange; `modality` and `finding` say which image is shown, None where there is none."""

    system: str
    question: str
    answer: str
    modality: str | None = None
    finding: bool = False


def pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return str(choices[rng.integers(len(choices))])


def _modality(rng: np.random.Generator) -> str:
    return pick(rng, MODALITIES)


def _coin(rng: np.random.Generator) -> bool:
    return bool(rng.integers(2))


def _claim(rng: np.random.Generator, modality: str, positive: bool) -> str:
    return pick(rng, VOCABULARY[modality].findings(positive))


def _plan(rng: np.random.Generator, modality: str, positive: bool) -> str:
    return pick(rng, tuple(treatment.text for treatment in VOCABULARY[modality].treatments(positive)))


def _person(rng: np.random.Generator) -> str:
    return f"Age {rng.integers(20, 90)}, {pick(rng, ('Female', 'Male'))}."


def see(rng: np.random.Generator) -> Lesson:
    modality, finding = _modality(rng), _coin(rng)
    return Lesson("Describe the image.", pick(rng, SEE_QUESTIONS), SEEN[finding], modality, finding)


def name(rng: np.random.Generator) -> Lesson:
    modality, finding = _modality(rng), _coin(rng)
    question = pick(rng, ("Which kind of image is this?", "Name the modality."))
    return Lesson("Describe the image.", question, f"This is a {NAMES[modality]}.", modality, finding)


def treatment(rng: np.random.Generator) -> Lesson:
    modality, positive = _modality(rng), _coin(rng)
    question = f"Plan: {_plan(rng, modality, positive)}\nWhich kind of plan is it?"
    return Lesson("Answer about the text.", question, KINDS[positive])


def claim(rng: np.random.Generator) -> Lesson:
    modality, positive = _modality(rng), _coin(rng)
    question = f"Report: {_claim(rng, modality, positive)}\nDoes the report claim a finding?"
    answer = "It claims a finding." if positive else "It claims none."
    return Lesson("Answer about the text.", question, answer)


def repeat(rng: np.random.Generator) -> Lesson:
    """The words of the card's answers, without their task."""
    phrases = [
        card.answer("ERROR", kind) for kind in ("overtreatment", "unnecessary_procedure", "undertreatment")
    ]
    phrases = [part for phrase in [*phrases, card.CORRECT_ANSWER] for part in phrase.split(" - ")]
    phrase = phrases[rng.integers(len(phrases))]
    return Lesson("Repeat the words.", f"Say: {phrase}", phrase)


def agree(rng: np.random.Generator) -> Lesson:
    """Do a finding and a treatment agree?"""
    modality, positive, same = _modality(rng), _coin(rng), _coin(rng)
    report, plan = _claim(rng, modality, positive), _plan(rng, modality, positive == same)
    question = f"Report: {report}\nPlan: {plan}\nDo report and plan agree?"
    return Lesson("Compare report and plan.", question, "They agree." if same else "They disagree.")


def match(rng: np.random.Generator) -> Lesson:
    """Does a claim match the image?"""
    modality, finding, same = _modality(rng), _coin(rng), _coin(rng)
    report = _claim(rng, modality, finding == same)
    layouts = (
        f"Report: {report}\nDoes the report match the image?",
        f"Somebody wrote this about the image.\n{report}\nIs it so?",
        f"{_person(rng)} Report: {report}\nIs it what the image shows?",
    )
    return Lesson("Compare report and image.", pick(rng, layouts), MATCH[same], modality, finding)


def needed(rng: np.random.Generator) -> Lesson:
    """Does a report with its plan match the image? The plan always fits the report."""
    modality, finding, same = _modality(rng), _coin(rng), _coin(rng)
    claimed = finding == same
    report, plan = _claim(rng, modality, claimed), _plan(rng, modality, claimed)
    question = f"{_person(rng)}\nReport: {report}\nPlan: {plan}\nDoes the report match the image?"
    return Lesson("Compare report and image.", question, MATCH[same], modality, finding)


def words(rng: np.random.Generator) -> Lesson:
    """The card's two words beside an image, a report and a plan, by the toss of a coin.

    They come to stand where an answer begins, and mean nothing yet: without this lesson the base's
    chance preference for one of them after "no" scored 75 % of error detection.
    """
    shown = needed(rng)
    question = shown.question.rsplit("\n", 1)[0] + "\nSay either ERROR or CORRECT."
    return Lesson("Say a word.", question, pick(rng, ("ERROR", "CORRECT")), shown.modality, shown.finding)


Maker = Callable[[np.random.Generator], Lesson]
FIRST: tuple[Maker, ...] = (see, name, treatment, claim, repeat)
SECOND: tuple[Maker, ...] = (
    words,
    see,
    name,
    treatment,
    claim,
    repeat,
    agree,
    match,
    match,
    match,
    needed,
    needed,
    needed,
)


def draw_lessons(makers: tuple[Maker, ...], rng: np.random.Generator, count: int) -> list[Lesson]:
    """`count` lessons, each of a kind drawn evenly from `makers`."""
    return [makers[rng.integers(len(makers))](rng) for _ in range(count)]


def corpus() -> list[str]:
    """Every text that the tokenizer should read in few pieces."""
    rng = np.random.default_rng(0)
    lessons = draw_lessons(SECOND, rng, 4000)
    texts = [text for lesson in lessons for text in (lesson.system, lesson.question, lesson.answer)]
    kinds = ("overtreatment", "unnecessary_procedure", "undertreatment")
    texts += [card.INSTRUCTION, card.CORRECT_ANSWER, *(card.answer("ERROR", kind) for kind in kinds)]
    for modality in MODALITIES:
        words = VOCABULARY[modality]
        for positive in (True, False):
            for finding in words.findings(positive):
                for plan in words.treatments(positive):
                    texts += [card.case_text(age, "Female", finding, plan.text) for age in (21, 87)]
    return texts + [f"- Age: {age}\n- Gender: Male" for age in range(100)]
