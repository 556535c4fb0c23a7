"""The cells of the heatmaps: each modality's figures, and its errors by type, held against the gates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.gate import Gate, card_gates, hold
from mlx_medlora.evaluation.meanings import CARD_KEYS, MEANINGS
from mlx_medlora.evaluation.results import GateResult, Heatmaps, Measure, Prediction, Scorecard, Verdict
from mlx_medlora.evaluation.tally import patient_numbers

NO_ERROR = "none"  # the column of valid treatments
NOT_STATED = "not stated"
WORST_FIRST: tuple[Verdict, ...] = ("fail", "undecided", "pass")


def heatmaps(predictions: Sequence[Prediction], card: Scorecard, gates: Sequence[Gate]) -> Heatmaps:
    """Every cell of both heatmaps; `card` counts `predictions`."""
    return Heatmaps(by_metric=list(_metrics(card, gates)), by_error_type=list(_types(predictions, gates)))


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """`fail` where there is one, else `undecided` where there is one, else `pass`."""
    found = set(verdicts)
    return next((verdict for verdict in WORST_FIRST if verdict in found), "pass")


def _metrics(card: Scorecard, gates: Sequence[Gate]) -> Iterator[GateResult]:
    """Rows of modalities and of all; a column for each measure that a gate asks of all or of modalities."""
    asked = [gate.measure for gate in gates if gate.field in (None, "modality")]
    names = {_key(name): name for name in reversed(asked)}  # each under the name it was first asked by
    columns = [name for name in dict.fromkeys(asked) if names[_key(name)] == name and _key(name) in MEANINGS]
    for modality, scores in [*card.by_modality.items(), (None, card)]:
        for name in columns:
            held = _gates(gates, name, modality)
            if held:
                group = None if modality is None else {"modality": modality}
                cell = _hold(held, group, scores.measures[_key(name)])
                yield cell.model_copy(update={"measure": name})


def _types(predictions: Sequence[Prediction], gates: Sequence[Gate]) -> Iterator[GateResult]:
    """Rows of modalities and of all; columns of error types, valid treatments (`none`) last."""
    types = sorted({_type(p) for p in predictions if p.label == "ERROR"})
    columns = [(name, "tnr") for name in types] + [(NO_ERROR, "tpr")]
    for modality in [*sorted({p.modality for p in predictions}), None]:
        for name, measure in columns:
            held = _gates(gates, measure, None) or _gates(card_gates(), measure, None)
            chosen = [p for p in predictions if modality in (None, p.modality) and _type(p) == name]
            group = {} if modality is None else {"modality": modality}
            yield _hold(held, group | {"error_type": name}, _found(chosen, CARD_KEYS[measure]))


def _type(prediction: Prediction) -> str:
    """The column of a case: an error without a type is no valid treatment."""
    if prediction.label == "CORRECT":
        return NO_ERROR
    return NOT_STATED if prediction.error_type == NO_ERROR else prediction.error_type


def _found(cases: Sequence[Prediction], name: str) -> Measure:
    right = np.array([p.correct for p in cases], bool)
    return share(name, MEANINGS[name], right, patient_numbers([p.patient_id for p in cases]))


def _key(measure: str) -> str:
    return CARD_KEYS.get(measure, measure)


def _gates(gates: Sequence[Gate], measure: str, modality: str | None) -> list[Gate]:
    """The gates on a measure of a modality, those on it alone first; where there is none, on all cases."""
    mine = [gate for gate in gates if _key(gate.measure) == _key(measure)]
    own = [gate for gate in mine if modality is not None and gate.only == {"modality": modality}]
    each = [gate for gate in mine if modality is not None and gate.each == "modality"]
    return own + each or [gate for gate in mine if gate.field is None]


def _hold(gates: Sequence[Gate], group: dict[str, str] | None, found: Measure) -> GateResult:
    """The figure held against all of them: the worst verdict, of several such that of the hardest gate."""
    cells = [hold(gate, group, found) for gate in gates]
    return min(cells, key=lambda cell: (WORST_FIRST.index(cell.verdict), _slack(cell)))


def _slack(cell: GateResult) -> float:
    """How far the interval stays on the right side of the gate; negative where it does not."""
    if cell.interval is None:
        return 0.0
    if cell.at_least is not None:
        return cell.interval[0] - cell.at_least
    return (cell.under or 0.0) - cell.interval[1]
