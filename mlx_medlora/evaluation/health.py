"""Whether a run overfits, underfits or forgets, by stated rules on its curves and on before and after.

docs/clinical-evaluation.md gives the rules in words. Losses are nats a supervised token.
"""

from __future__ import annotations

from mlx_medlora.evaluation.curves import Curves, Point
from mlx_medlora.evaluation.intervals import Interval, wilson
from mlx_medlora.evaluation.remedies import remedies
from mlx_medlora.evaluation.results import Finding, Forgetting, Health, Measure
from mlx_medlora.evaluation.results.health import Kind

LEAST_CASES, LEAST_TOKENS = 20, 100  # of validation; with fewer nothing is told
RISE, RISE_NATS = 0.10, 0.02  # of the validation loss over its lowest
GAP, GAP_NATS = 2.0, 0.1  # validation loss over training loss
LEARNED = 0.10  # the share of the base's validation loss that must go
FALL, FALL_NATS = 0.10, 0.05  # in the last epoch: there was more to learn
_FITS: tuple[Kind, Kind] = ("overfitting", "underfitting")
KEYWORDS = 0.79  # accuracy of keyword rules over the text, by the dataset card


def health(curves: Curves | None, forgetting: Forgetting | None = None) -> Health:
    """The three findings. Without `curves` (an adapter from elsewhere) only forgetting can be told."""
    if curves is None:
        why = "The adapter brings no training curves (metrics.jsonl)."
        unknown = [Finding(kind=kind, found=None, sentence=why, advice="") for kind in _FITS]
        return Health(findings=[*unknown, forgets(None, forgetting)])
    over = overfits(curves)
    under = underfits(curves, overfitted=bool(over.found))
    return Health(findings=[over, under, forgets(curves, forgetting)])


def overfits(curves: Curves) -> Finding:
    """Validation loss rising while training loss falls, or far above it."""
    reason, advice = _too_little(curves)
    if reason:
        return Finding(kind="overfitting", found=None, sentence=reason, advice=advice)
    kept, last = curves.kept, curves.validated[-1]
    assert kept is not None
    low, end = kept.val_loss or 0.0, last.val_loss or 0.0
    falls = None not in (kept.train_loss, last.train_loss) and _train(last) < _train(kept)
    if falls and end - low >= max(RISE_NATS, RISE * low):
        sentence = (
            f"The validation loss rose from {low:.3f} (epoch {kept.epoch}) to {end:.3f} (epoch {last.epoch}) "
            f"while the training loss went on falling; epoch {kept.epoch}'s adapter is the one kept."
        )
        return _found("overfitting", curves, sentence)
    if last.train_loss is not None and not curves.replayed and _apart(last.train_loss, end):
        sentence = (
            f"The validation loss, {end:.3f}, is {end / max(last.train_loss, 1e-9):.1f} times the training "
            f"loss, {last.train_loss:.3f}: the training cases are learned by heart."
        )
        return _found("overfitting", curves, sentence)
    if len(curves.validated) < 2:
        sentence, advice = "One epoch shows no trend of the validation loss.", "Train for two epochs or more."
        return Finding(kind="overfitting", found=None, sentence=sentence, advice=advice)
    sentence = f"The validation loss did not rise: lowest {low:.3f} (epoch {kept.epoch}), last {end:.3f}."
    if end - low > 0:
        sentence = f"The validation loss hardly rose: lowest {low:.3f} (epoch {kept.epoch}), last {end:.3f}."
    return Finding(kind="overfitting", found=False, sentence=sentence, advice="")


def _apart(train: float, val: float) -> bool:
    return val >= GAP * train and val - train >= GAP_NATS


def underfits(curves: Curves, *, overfitted: bool = False) -> Finding:
    """Little learned, still learning at the end, or verdicts no better than keyword rules.

    Poor validation of an overfitted run is no underfitting: then only what is still falling counts.
    """
    reason, advice = _too_little(curves)
    kept, base = curves.kept, curves.base
    if reason or kept is None:
        return Finding(kind="underfitting", found=None, sentence=reason or "", advice=advice)
    low = kept.val_loss or 0.0
    before = None if base is None else base.val_loss
    if not overfitted and before is not None and low >= FALL_NATS and before - low < LEARNED * before:
        sentence = f"Training took the validation loss from {before:.3f} to {low:.3f} only."
        return _found("underfitting", curves, sentence)
    fall = _last_fall(curves)
    if fall is not None:
        sentence = (
            f"The validation loss was still falling at the end, from {fall[0]:.3f} to {fall[1]:.3f} in the "
            "last epoch."
        )
        return _found("underfitting", curves, sentence)
    if overfitted:
        sentence = "The training cases are learned, more than is good: see overfitting."
        return Finding(kind="underfitting", found=False, sentence=sentence, advice="")
    return _by_verdicts(curves, kept)


def _last_fall(curves: Curves) -> tuple[float, float] | None:
    """The last two validation losses where the last is the lowest and clearly lower."""
    if len(curves.validated) < 2 or curves.kept != curves.validated[-1]:
        return None
    first, second = (point.val_loss or 0.0 for point in curves.validated[-2:])
    return (first, second) if first - second >= max(FALL_NATS, FALL * first) else None


def _by_verdicts(curves: Curves, kept: Point) -> Finding:
    """Underfitting by the accuracy of the kept epoch against what keyword rules reach."""
    learned = f"The validation loss reached {kept.val_loss or 0.0:.3f} and had settled"
    interval = _accuracy(kept, curves.cases)
    if kept.val_accuracy is None or interval is None:
        sentence = f"{learned}; the accuracy of its verdicts was not measured."
        return Finding(kind="underfitting", found=False, sentence=sentence, advice="")
    told = f"{100 * kept.val_accuracy:.0f} % of verdicts right ({_percent(interval)})"
    rules = f"what keyword rules reach by the dataset card, {100 * KEYWORDS:.0f} %"
    if interval[1] < KEYWORDS:
        return _found("underfitting", curves, f"{learned}, but {told} is below {rules}.")
    if interval[0] <= KEYWORDS:
        sentence = f"{learned}; whether {told} is better than {rules}, {curves.cases} cases cannot tell."
        return Finding(kind="underfitting", found=None, sentence=sentence, advice=_OPEN)
    sentence = f"{learned}, with {told}."
    return Finding(kind="underfitting", found=False, sentence=sentence, advice="")


def forgets(curves: Curves | None, measured: Forgetting | None) -> Finding:
    """Answers to general questions moved too far, or the task itself done worse than by the base."""
    settings = {} if curves is None else curves.settings
    lost = None if curves is None else _lost(curves)
    if lost:
        advice = remedies("forgetting", settings)
        return Finding(kind="forgetting", found=True, sentence=lost, advice=advice)
    if measured is None:
        sentence = "Not measured: it takes the base's answers to general questions."
        advice = "`mlx-medlora eval --adapter DIR` measures it, without --no-forgetting."
        return Finding(kind="forgetting", found=None, sentence=sentence, advice=advice)
    if measured.loss_base >= measured.loss_uniform:
        sentence = (
            f"The base itself does not know the {measured.n} general answers ({measured.loss_base:.1f} nats "
            f"a token, guessing {measured.loss_uniform:.1f}): there is nothing to forget."
        )
        return Finding(kind="forgetting", found=None, sentence=sentence, advice="")
    found = _beyond(measured.kl, measured.threshold)
    change = measured.loss_change.value or 0.0
    limit = f"{measured.threshold:g}"
    verdict = {True: f"more than {limit}", False: f"less than {limit}"}
    told = verdict[found] if found is not None else f"whether that is more than {limit} cannot be told"
    sentence = (
        f"On {measured.n} general questions the answers moved by KL {_nats(measured.kl)} nats a token, "
        f"{told}; textbook answers are {abs(change):.2f} nats a token "
        f"{'less' if change > 0 else 'more'} likely."
    )
    advice = remedies("forgetting", settings) if found else ""
    return Finding(kind="forgetting", found=found, sentence=sentence, advice=advice)


def _lost(curves: Curves) -> str | None:
    """What to say where the kept epoch has surely fewer verdicts right than the base had."""
    if _too_little(curves)[0] or curves.base is None or curves.kept is None:
        return None
    before, after = (_accuracy(point, curves.cases) for point in (curves.base, curves.kept))
    if before is None or after is None or after[1] >= before[0]:
        return None
    return (
        f"On the validation cases themselves {_share(curves.kept)} of verdicts are right "
        f"({_percent(after)}), the base had {_share(curves.base)} ({_percent(before)})."
    )


def _beyond(measure: Measure, threshold: float) -> bool | None:
    if measure.interval is None:
        return False if measure.value == 0 else None
    low, high = measure.interval
    return True if low > threshold else False if high < threshold else None


_OPEN = "Validate on more cases."
_MORE = f"Validate on more cases: {LEAST_CASES} are the least that anything is told from."


def _too_little(curves: Curves) -> tuple[str | None, str]:
    """Why nothing can be told from the curves, and what to do about it; (None, "") where something can."""
    if not curves.validated:
        return "There is no validation loss to tell it from.", "Prepare the dataset with a validation split."
    if curves.cases is None or curves.tokens is None:
        return "How many cases stand behind the validation loss is not known (no run.json).", ""
    if curves.cases < LEAST_CASES or curves.tokens < LEAST_TOKENS:
        few = f"{curves.cases} validation cases with {curves.tokens} supervised tokens are too few to tell."
        return few, _MORE
    return None, ""


def _found(kind: Kind, curves: Curves, sentence: str) -> Finding:
    return Finding(kind=kind, found=True, sentence=sentence, advice=remedies(kind, curves.settings))


def _train(point: Point) -> float:
    return point.train_loss or 0.0


def _accuracy(point: Point, cases: int | None) -> Interval | None:
    if point.val_accuracy is None or point.val_accuracy_interval or not cases:
        return point.val_accuracy_interval
    return wilson(round(point.val_accuracy * cases), cases)


def _share(point: Point) -> str:
    return f"{100 * (point.val_accuracy or 0.0):.0f} %"


def _percent(interval: Interval) -> str:
    return f"{100 * interval[0]:.0f}-{100 * interval[1]:.0f} %"


def _nats(measure: Measure) -> str:
    if measure.interval is None:
        return f"{measure.value or 0.0:.3g}"
    return f"{measure.value or 0.0:.3g} ({measure.interval[0]:.3g} to {measure.interval[1]:.3g})"
