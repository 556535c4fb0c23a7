"""Does the model look? The same cases asked again without what it should look at.

Each pass answers the whole split: images blanked, images of cases with the other right answer, the text's
finding removed, all text removed. What is lost without the image is what came from it. Letters: N cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.altered import (
    Altered,
    Swapped,
    blank_image,
    blanked,
    finding_removed,
    swapped,
    text_removed,
)
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.paired import balanced_difference, balanced_share, paired_difference
from mlx_medlora.evaluation.results import Dependence, Measure, Prediction
from mlx_medlora.evaluation.saying import Evidence, conclude
from mlx_medlora.evaluation.tally import patient_numbers
from mlx_medlora.evaluation.words import probe_words
from mlx_medlora.gemma.processor import Encoder

Answer = Callable[[Dataset, str], Sequence[Prediction]]  # a dataset, and what is being asked

UNMOVED = 1e-3  # a probability of ERROR that moves by less in every case is not moved by the image
FEWEST = 5  # cases of either pass from which that is concluded: the image may not matter to a single one
WITHIN = {
    "accuracy": "the share of cases answered rightly, of those with an image",
    "accuracy_blanked": "the same, with every image replaced by an even grey",
    "accuracy_swapped": "the same, with each case shown the image of one with the other right answer, if any",
    "accuracy_without_finding": "the same, with the finding taken out of the text",
    "accuracy_image_alone": "the same, with no text but the instruction",
}
GAINS = {
    "from_image": "accuracy less accuracy with the images blanked: what the image gives",
    "from_this_image": (
        "accuracy less accuracy with the image of a case with the other right answer: what it costs to be "
        "shown the opposite"
    ),
    "from_text": "accuracy with the images blanked less that of the commoner answer: what text alone gives",
    "from_finding": "accuracy less accuracy without the text's finding: what the finding in the text gives",
}
CHANGED = {
    "changed_blanked": "the share of cases answered otherwise when the image is blanked",
    "changed_swapped": (
        "the share of cases answered otherwise with the image of a case with the other right answer"
    ),
}
BALANCED = {
    "balanced_accuracy": "the mean of sensitivity and specificity, of the cases with an image",
    "balanced_accuracy_blanked": "the same mean, with the images blanked",
    "balanced_accuracy_swapped": "the same mean, with images of cases with the other right answer, if any",
}
BALANCED_GAINS = {
    "from_image": (
        "balanced accuracy less that with the images blanked: what the image gives; the verdict rests on it"
    ),
    "from_this_image": (
        "balanced accuracy less that with the image of a case with the other right answer: what it costs to "
        "be shown the opposite; the verdict rests on it too"
    ),
    "from_text": "balanced accuracy with the images blanked less one half, which always saying the same has",
}
PRIOR = "the share of cases whose right answer is the commoner one: what knowing nothing else gives"
SHIFT = "mean change of the probability of ERROR when the image is blanked or swapped, whichever is more"


@dataclass(frozen=True)
class _Pass:
    """A pass's answers beside the plain ones of the same cases, (N,) each."""

    name: str
    plain: list[Prediction]
    asked: list[Prediction]
    alike: int = 0  # of the swapped images, those of cases with the same right answer

    def right(self, which: str) -> np.ndarray:
        """(N,) whether they are right."""
        return np.array([p.correct for p in getattr(self, which)], bool)

    @property
    def error(self) -> np.ndarray:
        """(N,) whether the right answer is ERROR."""
        return np.array([p.label == "ERROR" for p in self.plain], bool)

    @property
    def patient(self) -> np.ndarray:
        """(N,) numbers of patients."""
        return patient_numbers([p.patient_id for p in self.plain])


def measure_dependence(
    answer: Answer, encoder: Encoder, dataset: Dataset, split: str, predictions: Sequence[Prediction]
) -> Dependence:
    """Ask the cases of `split` that have images again, and compare with `predictions`, its plain answers.

    `answer` answers a whole dataset, by the same method and threshold. Words are counted over all splits that
    can be read. Raises InputError where no case has an image.
    """
    cases = [case for case in dataset.cases(split) if case.image_paths]
    if not cases:
        raise InputError(
            f"no case of {split!r} has an image, so that nothing can be blanked", path=dataset.root
        )
    shown = {case.id for case in cases}
    plain = [p for p in predictions if p.id in shown]
    with blank_image(encoder) as blank:
        asked = {
            "blanked": blanked(dataset, cases, blank),
            "swapped": swapped(dataset, cases),
            "without_finding": finding_removed(dataset, cases),
            "image_alone": text_removed(dataset, cases),
        }
        passes = {name: _ask(answer, name, altered, split, plain) for name, altered in asked.items()}
    evidence = _evidence(plain, passes, _all_cases(dataset, split))
    return conclude(evidence, left_out=len(predictions) - len(plain))


def _all_cases(dataset: Dataset, split: str) -> list[Case]:
    """The cases of this split, and of the others where nothing is wrong with those."""
    found = dataset.cases(split)
    for name in dataset.splits():
        with suppress(InputError):
            found = found + (dataset.cases(name) if name != split else [])
    return found


def _ask(answer: Answer, name: str, altered: Altered, split: str, plain: Sequence[Prediction]) -> _Pass:
    held = {case.id for case in altered.cases(split)}
    rows = list(answer(altered, name.replace("_", " "))) if held else []
    alike = altered.alike if isinstance(altered, Swapped) else 0
    return _Pass(name, [p for p in plain if p.id in held], rows, alike)


def _evidence(plain: list[Prediction], passes: dict[str, _Pass], everything: Sequence[Case]) -> Evidence:
    """Every figure by its name, and what the words tell."""
    whole = _Pass("", plain, plain)
    figures = {"accuracy": share("accuracy", WITHIN["accuracy"], whole.right("plain"), whole.patient)}
    for name, one in passes.items():
        key = f"accuracy_{name}"
        figures[key] = share(key, WITHIN[key], one.right("asked"), one.patient)
    error = whole.error
    common = error == (error.mean() >= 0.5)
    figures["label_prior"] = _fixed("label_prior", PRIOR, float(common.mean()), len(plain), int(common.sum()))
    text = passes["blanked"]
    figures |= {m.name: m for m in (_gain("from_image", text), _gain("from_this_image", passes["swapped"]))}
    figures["from_text"] = paired_difference(
        common, text.right("asked"), text.patient, name="from_text", meaning=GAINS["from_text"]
    )
    figures["from_finding"] = _gain("from_finding", passes["without_finding"])
    if error.any() and not error.all():
        figures |= {m.name: m for m in _balanced(whole, text, passes["swapped"])}
    for name in ("blanked", "swapped"):
        one, key = passes[name], f"changed_{name}"
        other = [a.predicted != b.predicted for a, b in zip(one.plain, one.asked, strict=True)]
        figures[key] = share(key, CHANGED[key], np.array(other, bool), one.patient)
    moves = [_moves(passes[name]) for name in ("blanked", "swapped")]
    shift = max(float(move.mean()) if len(move) else 0.0 for move in moves)
    figures["probability_shift"] = _fixed("probability_shift", SHIFT, shift, len(plain))
    words = probe_words(everything)
    figures |= {m.name: m for m in (words.accuracy, words.gain)}
    unmoved = all(len(move) >= FEWEST and float(move.max()) < UNMOVED for move in moves)
    commoner: Label = "ERROR" if error.mean() >= 0.5 else "CORRECT"
    return Evidence(figures, unmoved, words.words, commoner, passes["swapped"].alike)


def _balanced(whole: _Pass, blanked: _Pass, swapped: _Pass) -> Iterator[Measure]:
    """The figures that few errors among many cases do not hide."""
    for (key, meaning), one in zip(BALANCED.items(), (whole, blanked, swapped), strict=True):
        yield _of_both(one, key, meaning, balanced_share, one.right("asked"))
    for name, one in (("from_image", blanked), ("from_this_image", swapped)):
        rights = one.right("asked"), one.right("plain")
        yield _of_both(one, f"balanced_{name}", BALANCED_GAINS[name], balanced_difference, *rights)
    above_half = partial(balanced_share, less=0.5)
    key, meaning = "balanced_from_text", BALANCED_GAINS["from_text"]
    yield _of_both(blanked, key, meaning, above_half, blanked.right("asked"))


def _of_both(
    one: _Pass, name: str, meaning: str, make: Callable[..., Measure], *rights: np.ndarray
) -> Measure:
    """`make` of a pass that has cases of both right answers."""
    error = one.error
    if not len(error) or error.all() or not error.any():
        reason = "no cases of both right answers could be asked so"
        return Measure(name=name, value=None, n=len(error), meaning=meaning, reason=reason)
    return make(*rights, error, one.patient, name=name, meaning=meaning)


def _gain(name: str, one: _Pass) -> Measure:
    """Plain accuracy less the pass's."""
    if not one.plain:
        return Measure(name=name, value=None, n=0, meaning=GAINS[name], reason="no case could be asked so")
    return paired_difference(
        one.right("asked"), one.right("plain"), one.patient, name=name, meaning=GAINS[name]
    )


def _moves(one: _Pass) -> np.ndarray:
    """(N,) change of the probability of ERROR."""
    pairs = zip(one.plain, one.asked, strict=True)
    return np.array([abs((a.p_error or 0.0) - (b.p_error or 0.0)) for a, b in pairs], np.float64)


def _fixed(name: str, meaning: str, value: float, n: int, count: int | None = None) -> Measure:
    reason = "no interval: it describes these cases and claims nothing of others"
    return Measure(name=name, value=value, n=n, count=count, meaning=meaning, reason=reason)
