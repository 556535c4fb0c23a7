"""What the figures on dependence come to: a verdict, and sentences for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlx_medlora.cases.card import Label
from mlx_medlora.evaluation.results import Dependence, Measure
from mlx_medlora.evaluation.words import Word, telling_words

SMALL = 0.10  # a contribution whose whole interval lies below it counts as none

BLIND = "does not look at the image"
ELSEWHERE = "its accuracy does not come from the image"
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

    `unmoved` where no probability moved with the image; `common` is the commoner answer.
    """

    figures: Mapping[str, Measure]
    unmoved: bool
    words: tuple[Word, ...]
    common: Label


def conclude(evidence: Evidence, left_out: int = 0) -> Dependence:
    """The verdict and the sentences; `left_out` cases had no image."""
    looks, shortcut = _looks(evidence), _shortcut(evidence)
    verdict = {True: LOOKS, False: BLIND if evidence.unmoved else ELSEWHERE, None: UNDECIDED}[looks]
    return Dependence(
        verdict=verdict + (SHORTCUT if shortcut else ""),
        sentences=list(_sentences(evidence, looks, shortcut, left_out)),
        figures=list(evidence.figures.values()),
        looks=looks,
        shortcut=shortcut,
    )


def _looks(evidence: Evidence) -> bool | None:
    """Whether the accuracy comes from the image: both from there being one and from its being the case's."""
    if evidence.unmoved:
        return False
    found = [evidence.figures[name].interval for name in ("from_image", "from_this_image")]
    intervals = [interval for interval in found if interval is not None]
    if intervals and all(low > 0 for low, _ in intervals):
        return True
    return False if any(high < SMALL for _, high in intervals) else None


def _shortcut(evidence: Evidence) -> bool | None:
    """Whether text alone is righter than the commoner answer, for the model or for a count of words."""
    intervals = [evidence.figures[name].interval for name in ("from_text", "words_gain")]
    if any(interval is not None and interval[0] > 0 for interval in intervals):
        return True
    small = [interval is not None and interval[1] < SMALL for interval in intervals]
    return False if all(small) else None


def _sentences(evidence: Evidence, looks: bool | None, shortcut: bool | None, left_out: int) -> Iterator[str]:
    found = evidence.figures
    shown = {name: _percent(measure) for name, measure in found.items()}
    yield _first(evidence, looks)
    yield (
        f"Of {_cases(found['accuracy'].n)} with an image it answers {shown['accuracy']} rightly; with the "
        f"image blanked {shown['accuracy_blanked']}, with another case's image {shown['accuracy_swapped']}, "
        f"without the text's finding {shown['accuracy_without_finding']}, with no text "
        f"{shown['accuracy_image_alone']}. Always answering {evidence.common} gives {shown['label_prior']}."
    )
    yield (
        f"So of its accuracy {_points(found['label_prior'], sign=False)} are the labels' mixture, "
        f"{_points(found['from_text'])} come from the text alone and {_points(found['from_image'])} from the "
        "image."
    )
    yield from _shortcut_sentences(evidence, shortcut)
    if left_out:
        yield f"{_cases(left_out)} without an image {'was' if left_out == 1 else 'were'} left out."


def _first(evidence: Evidence, looks: bool | None) -> str:
    found = evidence.figures
    if evidence.unmoved:
        return "It does not look: no answer's probability moves when the image is blanked or exchanged."
    drop, other = (_points(found[name]) for name in ("from_image", "from_this_image"))
    if looks:
        return f"It looks: the image gives {drop}, and that it is the case's own gives {other}."
    costs = f"blanking the image costs {drop}, another case's image costs {other}"
    if looks is False:
        changed = _percent(found["changed_blanked"])
        return (
            f"Its accuracy does not come from the image: {costs}. Blanking changes {changed} of its answers."
        )
    more = "More cases are needed, or a model that answers better than chance."
    return f"These cases cannot tell whether it looks: {costs}. {more}"


def _shortcut_sentences(evidence: Evidence, shortcut: bool | None) -> Iterator[str]:
    text, words = evidence.figures["from_text"], evidence.figures["words_gain"]
    if text.interval is not None and text.interval[0] > 0:
        yield (
            f"Shortcut: without seeing the image it is right more often than the commoner answer, by "
            f"{_points(text)}. Either finding and treatment contradict each other in words, or something in "
            "the text gives the answer away."
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


def _points(found: Measure, *, sign: bool = True) -> str:
    """`+12.0 points (+3.1 to +20.4)`."""
    if found.value is None:
        return f"no figure ({found.reason})"
    form = "+.1f" if sign else ".1f"
    shown = f"{100 * found.value:{form}} points"
    if found.interval is None:
        return shown
    low, high = (format(100 * bound, form) for bound in found.interval)
    return f"{shown} ({low} to {high})"
