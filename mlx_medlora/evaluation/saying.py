"""What the figures on dependence come to: a verdict, and sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlx_medlora.cases.card import Label
from mlx_medlora.evaluation.results import Dependence, Measure
from mlx_medlora.evaluation.words import Word, telling_words

SMALL = 0.10  # a contribution whose whole interval lies below it counts as little

BLIND = "does not look at the image"
ELSEWHERE = "its accuracy does not come from the image"
HARDLY = "hardly looks at the image"
LOOKS = "looks at the image"
UNDECIDED = "undecided whether it looks at the image"
SHORTCUT = "; the text gives answers away"


NOT_MEASURED = Dependence(
    verdict="not measured",
    sentences=["Whether it looks at the image was not measured: eval --dependence does."],
    figures=[],
    looks=None,
    shortcut=None,
)


@dataclass(frozen=True)
class Evidence:
    """Figures by name, and the words that tell most.

    `unmoved` where no probability moved with the image; `common` is the commoner answer; `alike` cases were
    shown the image of a case with the same right answer, there being no other.
    """

    figures: Mapping[str, Measure]
    unmoved: bool
    words: tuple[Word, ...]
    common: Label
    alike: int = 0

    def judged(self, name: str) -> Measure:
        """The figure the verdict rests on: of balanced accuracy where there are cases of both answers."""
        return self.figures.get(f"balanced_{name}", self.figures[name])

    @property
    def unit(self) -> str:
        """Of what the judged figures are points."""
        return " of balanced accuracy" if "balanced_from_image" in self.figures else ""

    @property
    def other(self) -> str:
        """Whose image was shown instead."""
        some = self.figures["accuracy_swapped"].n > self.alike
        return "the image of a case with the other right answer" if some else "another case's image"


def conclude(evidence: Evidence, left_out: int = 0) -> Dependence:
    """The verdict and the sentences; `left_out` cases had no image."""
    verdict, shortcut = _verdict(evidence), _shortcut(evidence)
    return Dependence(
        verdict=verdict + (SHORTCUT if shortcut else ""),
        sentences=list(_sentences(evidence, verdict, shortcut, left_out)),
        figures=list(evidence.figures.values()),
        looks={LOOKS: True, BLIND: False, ELSEWHERE: False}.get(verdict),
        hardly=verdict == HARDLY,
        shortcut=shortcut,
    )


def warnings_of(found: Dependence) -> list[str]:
    """What must not be overlooked among the sentences."""
    return [found.verdict] if found.looks is False or found.hardly or found.shortcut else []


def _verdict(evidence: Evidence) -> str:
    """Whether the answers are righter both for there being an image and for its being the case's own.

    Either contribution that is small, and not shown to be there, is none; one that is shown and small is
    little, whatever the other; without an interval nothing is shown.
    """
    if evidence.unmoved:
        return BLIND
    intervals = [evidence.judged(name).interval for name in ("from_image", "from_this_image")]
    found = [interval for interval in intervals if interval is not None]
    if any(low <= 0 and high < SMALL for low, high in found):
        return ELSEWHERE
    if any(high < SMALL for _, high in found):
        return HARDLY
    return LOOKS if len(found) == len(intervals) and all(low > 0 for low, _ in found) else UNDECIDED


def _shortcut(evidence: Evidence) -> bool | None:
    """Whether text alone is righter than the same answer always, for the model or for a count of words."""
    intervals = [evidence.judged("from_text").interval, evidence.figures["words_gain"].interval]
    if any(interval is not None and interval[0] > 0 for interval in intervals):
        return True
    small = [interval is not None and interval[1] < SMALL for interval in intervals]
    return False if all(small) else None


def _sentences(evidence: Evidence, verdict: str, shortcut: bool | None, left_out: int) -> Iterator[str]:
    found = evidence.figures
    shown = {name: _percent(measure) for name, measure in found.items()}
    yield _first(evidence, verdict)
    yield (
        f"Of {_cases(found['accuracy'].n)} with an image it answers {shown['accuracy']} rightly; with the "
        f"image blanked {shown['accuracy_blanked']}, with {evidence.other} {shown['accuracy_swapped']}, "
        f"without the text's finding {shown['accuracy_without_finding']}, with no text "
        f"{shown['accuracy_image_alone']}. Always answering {evidence.common} gives {shown['label_prior']}."
    )
    yield (
        f"So of its accuracy {_points(found['label_prior'], bare=True)} are the labels' mixture, "
        f"{_points(found['from_text'])} come from the text alone and {_points(found['from_image'])} from the "
        "image."
    )
    if evidence.unit:
        yield (
            "It is judged by balanced accuracy, the mean of sensitivity and specificity, as accuracy hides "
            f"few errors among many cases: {shown['balanced_accuracy']}, with the image blanked "
            f"{shown['balanced_accuracy_blanked']}, with {evidence.other} "
            f"{shown['balanced_accuracy_swapped']}; always the same answer has 50.0 %."
        )
    yield from _shortcut_sentences(evidence, shortcut)
    if evidence.alike:
        yield (
            f"{_cases(evidence.alike)} {'was' if evidence.alike == 1 else 'were'} shown the image of a case "
            "with the same right answer: there was no other image of another answer."
        )
    if left_out:
        yield f"{_cases(left_out)} without an image {'was' if left_out == 1 else 'were'} left out."


def _first(evidence: Evidence, verdict: str) -> str:
    if verdict == BLIND:
        return "It does not look: no answer's probability moves when the image is blanked or exchanged."
    unit, other = evidence.unit, evidence.other
    gives = f"the image gives {_points(evidence.judged('from_image'))}{unit}"
    opposite = _points(evidence.judged("from_this_image"), sign=False)
    if verdict == LOOKS:
        return f"It looks: {gives}, and {other} costs {opposite}."
    if verdict == HARDLY:
        text = _points(evidence.judged("from_text"))
        return f"It hardly looks: {gives}, the text alone {text}; {other} costs {opposite}."
    drop = _points(evidence.judged("from_image"), sign=False)
    costs = f"blanking the image costs {drop}{unit}, {other} {opposite}"
    if verdict == ELSEWHERE:
        changed, exchanged = (_percent(evidence.figures[f"changed_{way}"]) for way in ("blanked", "swapped"))
        return (
            f"Its accuracy does not come from the image: {costs}. Blanking changes {changed} of its answers, "
            f"the other image {exchanged}."
        )
    more = "More cases are needed, or a model that answers better than chance."
    return f"These cases cannot tell whether it looks: {costs}. {more}"


def _shortcut_sentences(evidence: Evidence, shortcut: bool | None) -> Iterator[str]:
    text, words = evidence.judged("from_text"), evidence.figures["words_gain"]
    if text.interval is not None and text.interval[0] > 0:
        yield (
            f"Shortcut: without seeing the image it does better than always the same answer would, by "
            f"{_points(text)}{evidence.unit}. Either finding and treatment contradict each other in words, "
            "or something in the text gives the answer away."
        )
    if words.interval is not None and words.interval[0] > 0:
        yield words_sentence(evidence.figures["words_accuracy"], words, evidence.words)
    if shortcut is None:
        yield "Whether the text gives answers away, these cases cannot tell."
    if shortcut is False:
        yield f"No shortcut was found: text alone gives less than {100 * SMALL:g} points."


def words_sentence(accuracy: Measure, gain: Measure, words: Sequence[Word]) -> str:
    """What a count of words found in a dataset whose text gives answers away."""
    return (
        f"Shortcut in the dataset: its words alone predict {_percent(accuracy)} of the right answers, "
        f"{_points(gain)} against the commoner answer. {telling_words(words)}"
    )


def _cases(n: int) -> str:
    return "1 case" if n == 1 else f"{n} cases"


def _percent(found: Measure) -> str:
    return "n/a" if found.value is None else f"{100 * found.value:.1f} %"


def _points(found: Measure, *, sign: bool = True, bare: bool = False) -> str:
    """`+12.0 points (+3.1 to +20.4)`; `bare` is the figure alone."""
    if found.value is None:
        return f"no figure ({found.reason})"
    form = ".1f" if bare or not sign else "+.1f"
    shown = f"{100 * found.value:{form}} points"
    if bare:
        return shown
    if found.interval is None:
        return f"{shown} (no interval)"
    low, high = (format(100 * bound, form) for bound in found.interval)
    return f"{shown} ({low} to {high})"
