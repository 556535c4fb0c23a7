"""Let a model answer a dataset's cases, and keep every answer.

`score` compares the log-probabilities of the two verdicts as they begin the answer; `generate` lets
the model write its answer greedily and reads the verdict from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import mlx.core as mx

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.evaluation import answers
from mlx_medlora.evaluation.answers import LABELS
from mlx_medlora.evaluation.metrics import Outcome, Scorecard, score
from mlx_medlora.evaluation.prompts import PromptMaker
from mlx_medlora.files import atomic_directory, write_json, write_jsonl
from mlx_medlora.gemma.generate import generate
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt, answer_log_probs

Method = Literal["score", "generate"]
METHODS: tuple[Method, ...] = get_args(Method)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prediction:
    """One case's answer, a row of predictions.jsonl.

    `p_error` (method score) is the probability of ERROR against CORRECT; `text` (method generate) is
    the whole answer; `predicted` is None where that text could not be read.
    """

    id: str
    modality: str
    label: Label
    predicted: Label | None
    correct: bool
    method: Method
    p_error: float | None
    text: str | None
    patient_id: str | None
    error_type: str
    severity: str
    image_paths: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """A scorecard and the predictions it counts, in the dataset's order."""

    scorecard: Scorecard
    predictions: list[Prediction]


Verdict = tuple[Label | None, float | None, str | None]  # predicted, p_error, text


def evaluate(
    model: Base,
    encoder: Encoder,
    dataset: Dataset,
    split: str,
    *,
    method: Method = "score",
    batch_size: int = 4,
    max_tokens: int = 64,
    features: Mapping[Path, mx.array] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Answer every case of `split`; `progress(done, total)` is called after each batch.

    `max_tokens` bounds a generated answer; `features` (T, D) by image file spare the vision tower what is
    already known. Raises InputError for an unknown method, an empty split, a
    case the model cannot take (too long, or with images before a text-only model), MedloraError where
    the model's log-probabilities are not numbers.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}", hint=f"Choose one of: {', '.join(METHODS)}.")
    if batch_size < 1 or max_tokens < 1:
        raise InputError(f"batch size {batch_size} and max tokens {max_tokens} must both be at least 1")
    model.eval()  # no dropout: an adapter may have just been trained
    cases = dataset.cases(split)
    room = max_tokens if method == "generate" else 0
    maker = PromptMaker(model, encoder, dataset, cases, room=room, features=features)
    read = scorer(model, encoder) if method == "score" else _generator(model, encoder, max_tokens)
    predictions: list[Prediction] = []
    for batch in batches(cases, batch_size):
        verdicts = read(batch, maker.prompts(batch))
        predictions += [_prediction(*pair, method) for pair in zip(batch, verdicts, strict=True)]
        if progress is not None:
            progress(len(predictions), len(cases))
    return Evaluation(score([Outcome(p.label, p.predicted, p.modality) for p in predictions]), predictions)


def answer_case(model: Base, encoder: Encoder, dataset: Dataset, case: Case, max_tokens: int = 64) -> str:
    """What the model writes, greedily, for one case."""
    model.eval()
    maker = PromptMaker(model, encoder, dataset, [case], room=max_tokens)
    text = _generator(model, encoder, max_tokens)([case], maker.prompts([case]))[0][2]
    return (text or "").strip()


def write_evaluation(output: Path, evaluation: Evaluation, about: dict[str, Any]) -> None:
    """Write `scorecard.json` (with `about`: what was evaluated, how) and `predictions.jsonl`.

    `output` is complete or absent. Raises InputError where it exists and is not an empty directory.
    """
    with atomic_directory(output) as work:
        write_jsonl(work / "predictions.jsonl", (asdict(p) for p in evaluation.predictions))
        write_json(work / "scorecard.json", {**evaluation.scorecard.model_dump(mode="json"), "about": about})


def verdict_ids(encoder: Encoder) -> list[list[int]]:
    """Token ids of ERROR and CORRECT as they begin the assistant's turn, the end of turn left off."""
    found = []
    for word in LABELS:
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": word}]},
        ]
        encoded = encoder.encode(turns, [], with_answer=True)
        ids = [int(token) for token in encoded.ids[encoded.supervised]]
        found.append([token for token in ids if token != encoder.end_of_turn])
    return found


def scorer(model: Base, encoder: Encoder) -> Callable[[Sequence[Case], list[Prompt]], list[Verdict]]:
    """A function from cases and their prompts to verdicts, by the two words' log-probabilities."""
    words = verdict_ids(encoder)

    def read(cases: Sequence[Case], prompts: list[Prompt]) -> list[Verdict]:
        verdicts: list[Verdict] = []
        for case, row in zip(cases, answer_log_probs(model, prompts, words), strict=True):
            error, correct = (float(value) for value in row)
            if not (math.isfinite(error) and math.isfinite(correct)):
                raise MedloraError(
                    f"{case.where}: case {case.id!r} got log-probabilities {error} and {correct}",
                    hint="The weights or the adapter hold values that are not numbers: make them again.",
                )
            p_error = _softmax_first(error, correct)
            verdicts.append(("ERROR" if p_error >= 0.5 else "CORRECT", p_error, None))
        return verdicts

    return read


def _softmax_first(a: float, b: float) -> float:
    """exp(a) / (exp(a) + exp(b)), without overflow."""
    ratio = math.exp(-abs(a - b))
    return (1.0 if a >= b else ratio) / (1.0 + ratio)


def _generator(
    model: Base, encoder: Encoder, max_tokens: int
) -> Callable[[Sequence[Case], list[Prompt]], list[Verdict]]:
    markers = answers.thinking_ids(encoder.tokenizer)
    stops = model.config.eos_token_ids

    def read(cases: Sequence[Case], prompts: list[Prompt]) -> list[Verdict]:
        written = generate(model, prompts, max_tokens=max_tokens, eos_ids=stops)
        texts = (decoded(encoder, ids, markers) for ids in written)
        return [(answers.parse_answer(text), None, text) for text in texts]

    return read


def decoded(encoder: Encoder, ids: Sequence[int], markers: tuple[int, int] | None) -> str:
    """The answer's text: thinking and special tokens left out."""
    kept = answers.without_thinking(ids, markers)
    return str(encoder.tokenizer.decode(kept, skip_special_tokens=True))


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
        text=text,
        patient_id=case.patient_id,
        error_type=case.metadata.error_type,
        severity=case.metadata.severity,
        image_paths=case.image_paths,
    )


def batches(cases: Sequence[Case], size: int) -> Iterator[Sequence[Case]]:
    """`cases` in their order, `size` at a time."""
    for start in range(0, len(cases), size):
        yield cases[start : start + size]
