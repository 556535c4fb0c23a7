"""Does the text alone give the answer away? Its words are counted and the labels predicted from them.

Logistic regression on which words occur (scikit-learn), five-fold, no patient in two folds. No model is
asked, so that a shortcut in a dataset is found before anything is trained on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.schema import Case
from mlx_medlora.evaluation.bootstrap import LEAST
from mlx_medlora.evaluation.comparing import paired_difference
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.results import Measure
from mlx_medlora.evaluation.tally import Bools, Ints, patient_numbers

FOLDS = 5
MOST = 20_000  # cases; more would take minutes and change nothing
WORD = re.compile(r"(?u)\w+")
LEAST_PATIENTS = 3  # a word that fewer have is not shown: it might name someone
SHOWN = 5
CHANCE = 0.05  # the most that one word of chance alone is shown with, whatever the number of words
SUSPECT = 0.10  # a gain from which on words are suspected where no interval tells
SEED = 0

ALONE = "the share of cases whose right answer a count of their words predicts, without model or image"
GAIN = "accuracy of a count of words less that of always giving the commoner answer"
FEW = f"fewer than {FOLDS} patients with either right answer"
NO_WORDS = "the text has no words"


@dataclass(frozen=True)
class Word:
    """A word that `n` cases have, `errors` of them with the right answer ERROR, towards which it points."""

    text: str
    towards: Label
    n: int
    errors: int


@dataclass(frozen=True)
class WordProbe:
    """What words predict: the share of right answers, that share less the commoner answer's, the words.

    `words` may be none where many tell a little each; `patients` counts a case without one as its own.
    """

    accuracy: Measure
    gain: Measure
    words: tuple[Word, ...]
    patients: int

    @property
    def suspected(self) -> bool | None:
        """Whether words give answers away: True by the interval, None by these cases alone, False if not."""
        if self.gain.interval is not None and self.gain.interval[0] > 0:
            return True
        return None if self.gain.value is not None and self.gain.value >= SUSPECT else False

    @property
    def undecided(self) -> bool:
        """Whether words are not suspected only because so few patients tell nothing of them."""
        few = self.gain.interval is None or self.patients < LEAST
        return self.suspected is False and few and self.gain.reason != NO_WORDS


def probe_words(cases: Sequence[Case]) -> WordProbe:
    """Predict these cases' right answers from the words of their input; of more than MOST, from a sample."""
    if len(cases) > MOST:
        chosen = np.random.default_rng(SEED).choice(len(cases), MOST, replace=False)
        cases = [cases[place] for place in np.sort(chosen)]
    error = np.array([case.label == "ERROR" for case in cases], bool)
    patient = patient_numbers([case.patient_id for case in cases])
    if min(len(np.unique(patient[error])), len(np.unique(patient[~error]))) < FOLDS:
        return _nothing(error, patient, FEW)
    names, has = _counted([case.input for case in cases])
    if not len(names):
        return _nothing(error, patient, NO_WORDS)
    right = _predicted(has, error, patient) == error
    common = error == (error.mean() >= 0.5)
    return WordProbe(
        share("words_accuracy", ALONE, right, patient),
        paired_difference(common, right, patient, name="words_gain", meaning=GAIN),
        _telling(names, has, error, patient),
        len(np.unique(patient)),
    )


def telling_words(words: Sequence[Word]) -> str:
    """The words that tell, as a sentence."""
    if not words:
        return "No single word tells much: many tell a little."
    told = ", ".join(f"{word.text!r} ({word.errors} of {word.n} are errors)" for word in words)
    return f"Words that tell most: {told}."


def undecided_sentence(found: WordProbe) -> str:
    """What to say where these cases are too few to tell whether their words give answers away."""
    accuracy, gain = found.accuracy, found.gain
    why = gain.reason or "the interval of the gain holds 0"
    patients = f"{found.patients} patient{'' if found.patients == 1 else 's'}"
    said = f"{accuracy.n} cases of {patients} cannot tell whether the text gives answers away ({why})."
    if accuracy.value is None or gain.value is None or accuracy.count is None:
        return said
    common = accuracy.count - round(gain.value * accuracy.n)
    said += (
        f" In these, words alone predict {accuracy.count} of {accuracy.n} right answers, always giving the "
        f"commoner one {common}."
    )
    return said if found.suspected is False else f"{said} {telling_words(found.words)}"


def _nothing(error: Bools, patient: Ints, reason: str) -> WordProbe:
    accuracy, gain = (
        Measure(name=name, value=None, n=len(error), meaning=meaning, reason=reason)
        for name, meaning in (("words_accuracy", ALONE), ("words_gain", GAIN))
    )
    return WordProbe(accuracy, gain, (), len(np.unique(patient)))


def _counted(texts: Sequence[str]) -> tuple[list[str], Any]:
    """W words, and a sparse (N, W) matrix of which text has them."""
    from sklearn.feature_extraction.text import CountVectorizer

    if not any(WORD.search(text) for text in texts):
        return [], None
    counter = CountVectorizer(binary=True, token_pattern=WORD.pattern)
    has = counter.fit_transform(list(texts)).tocsc()
    return [str(name) for name in counter.get_feature_names_out()], has


def _predicted(has: Any, error: Bools, patient: Ints) -> Bools:
    """(N,) predictions of ERROR, each by a model that did not see the patient."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    model = LogisticRegression(max_iter=1000)
    return np.asarray(cross_val_predict(model, has.tocsr(), error, groups=patient, cv=folds), bool)


def _telling(names: Sequence[str], has: Any, error: Bools, patient: Ints) -> tuple[Word, ...]:
    """The words of most weight among those that are with one answer more often than chance allows."""
    from sklearn.linear_model import LogisticRegression

    weights: npt.NDArray[np.float64] = LogisticRegression(max_iter=1000).fit(has, error).coef_[0]
    tells = _by_chance(has, error, weights > 0) * len(names) < CHANCE
    found: list[Word] = []
    for column in np.argsort(-np.abs(weights), kind="stable"):
        rows = has[:, column].indices
        if tells[column] and len(np.unique(patient[rows])) >= LEAST_PATIENTS:
            towards: Label = "ERROR" if weights[column] > 0 else "CORRECT"
            found.append(Word(names[column], towards, len(rows), int(error[rows].sum())))
        if len(found) == SHOWN:
            break
    return tuple(found)


def _by_chance(has: Any, error: Bools, wrong: Bools) -> npt.NDArray[np.float64]:
    """(W,) chance that a word is with its answer as often: Fisher's exact test, one-sided, of cases.

    `wrong` (W,) says of which words the answer is ERROR.
    """
    from scipy.stats import hypergeom

    n, errors = len(error), int(error.sum())
    count = np.asarray(has.sum(axis=0)).ravel()
    together = np.asarray(has[error].sum(axis=0)).ravel()
    often = np.where(wrong, together, count - together)
    return np.asarray(hypergeom.sf(often - 1, n, np.where(wrong, errors, n - errors), count), np.float64)
