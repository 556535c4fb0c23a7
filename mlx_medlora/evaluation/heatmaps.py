"""The cells of the heatmaps: each modality's figures, and its errors by type, held against the gates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.gate import Gate, card_gates, hold
from mlx_medlora.evaluation.meanings import CARD_KEYS, MEANINGS
from mlx_medlora.evaluation.results import GateResult, Heatmaps, Measure, Prediction, Scorecard
from mlx_medlora.evaluation.results.suite import ALL
from mlx_medlora.evaluation.tally import patient_numbers

NO_ERROR = "none"


def heatmaps(predictions: Sequence[Prediction], card: Scorecard, gates: Sequence[Gate]) -> Heatmaps:
    """Every cell of both heatmaps; `card` counts `predictions`."""
    return Heatmaps(by_metric=list(_metrics(card, gates)), by_error_type=list(_types(predictions, gates)))


def _metrics(card: Scorecard, gates: Sequence[Gate]) -> Iterator[GateResult]:
    """Rows of modalities and of all; a column for each measure that a gate asks of all or of modalities."""
    asked = (gate.measure for gate in gates if gate.field in (None, "modality"))
    wanted = [name for name in dict.fromkeys(asked) if CARD_KEYS.get(name, name) in MEANINGS]
    for modality, scores in {**card.by_modality, ALL: card}.items():
        for measure in wanted:
            gate = _gate(gates, measure, None if modality == ALL else modality)
            if gate is not None:
                found = scores.measures[CARD_KEYS.get(measure, measure)]
                yield hold(gate, {"modality": modality}, found)


def _types(predictions: Sequence[Prediction], gates: Sequence[Gate]) -> Iterator[GateResult]:
    """Rows of modalities and of all; columns of error types, valid treatments (`none`) last."""
    types = sorted({p.error_type for p in predictions if p.label == "ERROR"})
    columns = [(name, "tnr") for name in types] + [(NO_ERROR, "tpr")]
    modalities = sorted({p.modality for p in predictions})
    for modality in [*modalities, ALL]:
        for name, measure in columns:
            gate = _gate(gates, measure, None) or _gate(card_gates(), measure, None)
            assert gate is not None
            valid = measure == "tpr"
            chosen = [
                p
                for p in predictions
                if modality in (ALL, p.modality)
                and (p.label == "CORRECT" if valid else p.label == "ERROR" and p.error_type == name)
            ]
            yield hold(gate, {"modality": modality, "error_type": name}, _found(chosen, CARD_KEYS[measure]))


def _found(cases: Sequence[Prediction], name: str) -> Measure:
    right = np.array([p.correct for p in cases], bool)
    return share(name, MEANINGS[name], right, patient_numbers([p.patient_id for p in cases]))


def _gate(gates: Sequence[Gate], measure: str, modality: str | None) -> Gate | None:
    """The gate on a measure: that on this modality, else on each, else on all cases."""
    same = {CARD_KEYS.get(measure, measure)}
    mine = [gate for gate in gates if CARD_KEYS.get(gate.measure, gate.measure) in same]
    if modality is not None:
        for gate in mine:
            if gate.only == {"modality": modality}:
                return gate
        for gate in mine:
            if gate.each == "modality":
                return gate
    return next((gate for gate in mine if gate.field is None), None)
