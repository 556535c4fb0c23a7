"""The benchmark suite: every modality held against the gates, beside what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.phantoms import MODALITIES
from mlx_medlora.cases.schema import Case
from mlx_medlora.evaluation.baselines import HEURISTIC, answered_by, commoner, heuristic
from mlx_medlora.evaluation.comparing import paired_difference
from mlx_medlora.evaluation.gate import Gate
from mlx_medlora.evaluation.heatmaps import heatmaps, worst
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import (
    Baseline,
    GateResult,
    Heatmaps,
    Measure,
    Prediction,
    Scorecard,
    Suite,
    Verdict,
)
from mlx_medlora.evaluation.shown import NO_SHARES, ranged
from mlx_medlora.evaluation.tally import patient_numbers

MORE = "accuracy of the model less that of the baseline, on the same cases"


def run_suite(
    dataset: Dataset, split: str, predictions: Sequence[Prediction], card: Scorecard, gates: Sequence[Gate]
) -> Suite:
    """The suite on a split that was answered; `card` counts `predictions`."""
    cells = heatmaps(predictions, card, gates)
    by = _by_modality(cells)
    modalities = {name: _worst(held) for name, held in by.items() if name is not None}
    baselines = list(_baselines(dataset, split, predictions))
    return Suite(
        modalities=modalities,
        absent=[name for name in MODALITIES if name not in modalities],
        heatmaps=cells,
        baselines=baselines,
        sentences=[*_sentences(by, modalities, _own(card)), *(_against(one) for one in baselines)],
    )


def _worst(cells: Sequence[GateResult]) -> Verdict:
    return worst(cell.verdict for cell in cells)


def _own(card: Scorecard) -> dict[str, list[GateResult]]:
    """The gates that ask something of a modality, by modality."""
    found: dict[str, list[GateResult]] = {}
    for gate in [] if card.gates is None else card.gates.gates:
        if gate.group is not None and set(gate.group) == {"modality"}:
            found.setdefault(gate.group["modality"], []).append(gate)
    return found


def _by_modality(cells: Heatmaps) -> dict[str | None, list[GateResult]]:
    """The metric cells of each modality, and under None of all."""
    found: dict[str | None, list[GateResult]] = {}
    for cell in cells.by_metric:
        found.setdefault((cell.group or {}).get("modality"), []).append(cell)
    return found


def _sentences(
    by: Mapping[str | None, Sequence[GateResult]],
    modalities: Mapping[str, Verdict],
    own: Mapping[str, Sequence[GateResult]],
) -> Iterator[str]:
    """Which modalities are green, and of each that is not, what speaks against it."""
    if own:
        rules = ", ".join(
            dict.fromkeys(f"{cell.measure} {cell.rule}" for held in own.values() for cell in held)
        )
        mine = _green({name: _worst(held) for name, held in own.items()})
        yield f"By the gates on each modality ({rules}) green: {mine}."
    yield f"Held against the gates on all cases too, green in every measure: {_green(modalities)}."
    for name, cells in by.items():
        unmet = [cell for cell in cells if cell.verdict != "pass"]
        what = "All modalities together" if name is None else f"Not green: {name}"
        if unmet:
            yield f"{what}: {'; '.join(_cell(cell) for cell in unmet)}."
        elif name is None:
            yield f"{what}: every measure passes."


def _green(verdicts: Mapping[str, Verdict]) -> str:
    """`xray, mri (2 of 4)`."""
    green = [name for name, verdict in verdicts.items() if verdict == "pass"]
    return f"{', '.join(green) or 'none'} ({len(green)} of {len(verdicts)})"


def _cell(cell: GateResult) -> str:
    """`tpr undecided, 100.0 % (92.9-100.0) of 50, about 73 would decide`."""
    if cell.value is None or cell.interval is None:
        return f"{cell.measure} {cell.verdict}, {cell.reason}"
    needed = "" if cell.needed is None else f", about {cell.needed} would decide"
    figure = ranged(cell.value, cell.interval, share=cell.measure not in NO_SHARES)
    return f"{cell.measure} {cell.verdict}, {figure} of {cell.n}{needed}"


def _baselines(dataset: Dataset, split: str, predictions: Sequence[Prediction]) -> Iterator[Baseline]:
    cases = dataset.cases(split)
    where = "train" if "train" in dataset.splits() else split
    always = commoner(dataset.cases(where))
    rules: dict[str, tuple[str, Callable[[Case], Label]]] = {
        "text heuristics": (HEURISTIC, heuristic),
        "majority class": (
            f"always {always}, in {where} at least as common as the other",
            lambda case: always,
        ),
    }
    patient = patient_numbers([p.patient_id for p in predictions])
    mine = np.array([p.correct for p in predictions], bool)
    for name, (rule, answer) in rules.items():
        found = answered_by(answer, cases, predictions)
        theirs = np.array([p.correct for p in found], bool)
        more = paired_difference(theirs, mine, patient, name="difference", meaning=MORE)
        yield Baseline(name=name, rule=rule, scorecard=score(found), difference=more)


def _against(baseline: Baseline) -> str:
    found: Measure = baseline.difference
    points = 100 * (found.value or 0.0)
    accuracy = f"{100 * (baseline.scorecard.accuracy or 0.0):.1f} %"
    if found.interval is None:
        return f"{baseline.name} ({baseline.rule}) score {accuracy}; the model {points:+.1f} points."
    low, high = (f"{100 * bound:+.1f}" for bound in found.interval)
    said = f"{baseline.name} ({baseline.rule}) score {accuracy}"
    return f"{said}; the model {points:+.1f} points ({low} to {high})."
