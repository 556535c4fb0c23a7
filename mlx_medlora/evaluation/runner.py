"""Let a model answer a dataset's cases, and keep every answer.

`score` compares the log-probabilities of the two verdicts as they begin the answer; `generate` lets
the model write its answer greedily and reads the verdict from it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import mlx.core as mx

from mlx_medlora.atomic import atomic_directory
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.prompts import PromptMaker
from mlx_medlora.evaluation.readers import EVEN, Reader, Scorer, Verdict, Writer
from mlx_medlora.evaluation.results import Prediction, Scorecard
from mlx_medlora.evaluation.results.predictions import Method
from mlx_medlora.evaluation.runs import HEATMAPS, PREDICTIONS, SCORECARD
from mlx_medlora.files import write_json, write_jsonl
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.sharing import Batch

if TYPE_CHECKING:
    from mlx_medlora.evaluation.gate import Gate

METHODS: tuple[Method, ...] = get_args(Method)
Progress = Callable[[int, int], None]
# What of the data stands in what `write_evaluation` writes.
CONTAINS = (
    "scorecard.json: counts, rates, and one SHA-256 over the split's rows and images.",
    "predictions.jsonl: each case's id, patient's id, modality, label, error type, severity and image names, "
    "the fields asked for with --by, the probability of ERROR, and the model's answer, which may repeat what "
    "the case says. No case's own text, no image.",
    "heatmaps.json, suite.json and heatmaps/, where they are written: counts and rates.",
    "dependence.json, where it is written: counts, rates, ids of the cases occluded, and words that texts of "
    "three patients or more have. occlusion/: those cases' images, their ids and answers.",
    "report.html, where it is written: the cases' texts and small copies of their images, the answers, ids.",
)
POOL = 4096  # cases that are sorted into batches together; more would only hold up the first answer


@dataclass(frozen=True)
class Evaluation:
    """The predictions, in the dataset's order, and the scorecard that counts them."""

    predictions: list[Prediction]

    @property
    def accuracy(self) -> float | None:
        """The share that is right, without the intervals that a scorecard takes time for."""
        found = self.predictions
        return sum(p.correct for p in found) / len(found) if found else None

    @cached_property
    def scorecard(self) -> Scorecard:
        """Every figure, counted when it is first asked for, held against the dataset card's gates."""
        from mlx_medlora.evaluation.gate import card_gates, judge
        from mlx_medlora.evaluation.metrics import score  # scikit-learn takes a second to import

        card = score(self.predictions)
        return card.model_copy(update={"gates": judge(card_gates(), card)})


def evaluate(
    model: Base,
    encoder: Encoder,
    dataset: Dataset,
    split: str,
    *,
    method: Method = "score",
    batch_size: int | None = None,
    max_tokens: int = 64,
    features: Mapping[Path, mx.array] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Answer every case of `split`; `progress(done, total)` is called after each batch.

    `batch_size` bounds the cases answered at once; the length of their prompts always does. `max_tokens`
    bounds a generated answer; `features` (T, D) by image file spare the vision tower what is
    already known. Raises InputError for an unknown method, an empty split, a
    case the model cannot take (too long, or with images before a text-only model), MedloraError where
    the model's log-probabilities are not numbers.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}", hint=f"Choose one of: {', '.join(METHODS)}.")
    if min(max_tokens, 1 if batch_size is None else batch_size) < 1:
        raise InputError(f"batch size {batch_size} and max tokens {max_tokens} must both be at least 1")
    model.eval()  # no dropout: an adapter may have just been trained
    cases = dataset.cases(split)
    room = max_tokens if method == "generate" else 0
    maker = PromptMaker(model, encoder, dataset, cases, room=room, features=features)
    reader: Reader = Scorer(model, encoder) if method == "score" else Writer(model, encoder, max_tokens)
    predictions: dict[int, Prediction] = {}
    for start in range(0, len(cases), POOL):
        pool = cases[start : start + POOL]
        outlines = maker.outlines(pool)
        for batch in reader.plan(outlines, batch_size):
            some = [pool[row] for row in batch.rows]
            verdicts = reader.read(some, maker.prompts(some, [outlines[row] for row in batch.rows]), batch)
            for row, case, verdict in zip(batch.rows, some, verdicts, strict=True):
                predictions[start + row] = _prediction(case, verdict, method)
            if progress is not None:
                progress(len(predictions), len(cases))
    return Evaluation([predictions[number] for number in range(len(cases))])


def answer_case(model: Base, encoder: Encoder, dataset: Dataset, case: Case, max_tokens: int = 64) -> str:
    """What the model writes, greedily, for one case."""
    model.eval()
    maker = PromptMaker(model, encoder, dataset, [case], room=max_tokens)
    verdict = Writer(model, encoder, max_tokens).read([case], maker.prompts([case]), Batch([0]))[0]
    return (verdict[2] or "").strip()


def write_evaluation(
    output: Path,
    evaluation: Evaluation,
    about: dict[str, Any],
    card: Scorecard | None = None,
    *,
    gates: Sequence[Gate] | None = None,
    then: Sequence[Callable[[Path], None]] = (),
) -> Scorecard:
    """Write `scorecard.json` (with `about`: what was evaluated, how), `predictions.jsonl`, `heatmaps.json`.

    `card` is the scorecard where it is not the plain one, `gates` those that the heatmaps' cells are held
    against, where they are not the dataset card's; `then` are called with the directory in the making,
    to add to it. Returns what was written. `output` is complete or absent. Raises InputError where it
    exists and is not an empty directory.
    """
    from mlx_medlora.evaluation.gate import card_gates
    from mlx_medlora.evaluation.heatmaps import heatmaps

    told = {**about, "contains": CONTAINS}
    whole = (card or evaluation.scorecard).model_copy(update={"about": told})
    cells = heatmaps(evaluation.predictions, whole, card_gates() if gates is None else gates)
    with atomic_directory(output, private=True) as work:
        write_jsonl(work / PREDICTIONS, (_row(p, whole.by) for p in evaluation.predictions))
        write_json(work / SCORECARD, whole.model_dump(mode="json"))
        write_json(work / HEATMAPS, cells.model_dump(mode="json"))
        for write in then:
            write(work)
    return whole


def _row(prediction: Prediction, grouped: Container[str]) -> dict[str, Any]:
    """A row of predictions.jsonl: of the case's own fields no more than what the scorecard shows."""
    row = prediction.model_dump(mode="json")
    told = {name: value for name, value in row["metadata"].items() if name in grouped}
    return {**row, "metadata": told}


def _prediction(case: Case, verdict: Verdict, method: Method) -> Prediction:
    predicted, p_error, text = verdict
    return Prediction(
        id=case.id,
        modality=case.metadata.modality,
        label=case.label,
        predicted=predicted,
        correct=predicted == case.label,
        method=method,
        p_error=p_error,
        threshold=None if p_error is None else EVEN,
        text=text,
        patient_id=case.patient_id,
        error_type=case.metadata.error_type,
        severity=case.metadata.severity,
        image_paths=case.image_paths,
        metadata=case.metadata.model_dump(mode="json"),
    )
