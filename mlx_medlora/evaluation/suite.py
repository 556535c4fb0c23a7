"""The benchmark suite: every modality held against the gates, beside what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.phantoms import MODALITIES
from mlx_medlora.cases.schema import Case
from mlx_medlora.evaluation.baselines import HEURISTIC, answered_by, commoner, heuristic, readable
from mlx_medlora.evaluation.comparing import paired_difference
from mlx_medlora.evaluation.gate import Gate
from mlx_medlora.evaluation.heatmaps import heatmaps, worst
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import (
    Baseline,
    GateResult,
    Heatmaps,
    Prediction,
    Scorecard,
    Suite,
    Verdict,
)
from mlx_medlora.evaluation.shown import NO_SHARES, ranged
from mlx_medlora.evaluation.tables import figure
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
    """The keyword rules, and the commoner answer: by the training cases, and by these where it is another."""
    cases = dataset.cases(split)
    common = _commoner(dataset, split)
    patient = patient_numbers([p.patient_id for p in predictions])
    mine = np.array([p.correct for p in predictions], bool)

    def against(name: str, rule: str, answer: Callable[[Case], Label], read: int | None = None) -> Baseline:
        found = answered_by(answer, cases, predictions)
        theirs = np.array([p.correct for p in found], bool)
        more = paired_difference(theirs, mine, patient, name="difference", meaning=MORE)
        return Baseline(name=name, rule=rule, read=read, scorecard=score(found), difference=more)

    yield against("text heuristics", HEURISTIC, heuristic, read=sum(map(readable, cases)))
    for answer, where in common.items():
        name = "majority class" if len(common) == 1 else f"majority class of {where[0]}"
        rule = f"always {answer}, in {' and in '.join(where)} at least as common as the other"
        yield against(name, rule, partial(_always, answer))


def _commoner(dataset: Dataset, split: str) -> dict[Label, list[str]]:
    """The commoner answers of `train`, where there is one, and of `split`, each with whose it is."""
    found: dict[Label, list[str]] = {}
    for where in dict.fromkeys(["train", split] if "train" in dataset.splits() else [split]):
        found.setdefault(commoner(dataset.cases(where)), []).append(where)
    return found


def _always(answer: Label, _: Case) -> Label:
    return answer


def _against(baseline: Baseline) -> str:
    """`majority class (always ERROR, ...): accuracy 50.0 % (40.4-59.6), 50 of 100; the model +40.0 points."""
    found, own = baseline.difference, baseline.scorecard.measures["accuracy"]
    points = f"{100 * (found.value or 0.0):+.1f} points"
    if found.interval is not None:
        points += " ({} to {})".format(*(f"{100 * bound:+.1f}" for bound in found.interval))
    return f"{baseline.name} ({baseline.rule}): {_read(baseline)}accuracy {figure(own)}; the model {points}."


def _read(baseline: Baseline) -> str:
    """How many cases the rules could read, so that an answer without reading is not taken for one with."""
    if baseline.read is None:
        return ""
    n = baseline.scorecard.n
    said = f"{baseline.read} of {n} cases could be read"
    if baseline.read < n:
        said += ", the others (no finding or no treatment under a heading) are called CORRECT"
    return f"{said}; "
