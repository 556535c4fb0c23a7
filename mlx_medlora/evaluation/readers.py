"""The two ways of having a model answer a batch of cases: scoring the verdicts, and writing."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import MedloraError
from mlx_medlora.evaluation import answers
from mlx_medlora.evaluation.answers import LABELS
from mlx_medlora.gemma.generate import generate
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.reading import Trunk, read_header
from mlx_medlora.gemma.scoring import answer_log_probs
from mlx_medlora.gemma.sharing import LEAST, Batch, Prompt, common, plan

EVEN = 0.5  # from here on ERROR is the likelier of the two
Verdict = tuple[Label | None, float | None, str | None]  # predicted, p_error, text


class Reader:
    """Plans batches of at most `tokens` tokens, and reads once what all prompts of a plan begin with."""

    tokens: int

    def __init__(self, model: Base) -> None:
        self.model = model
        self.header: Trunk | None = None

    def plan(self, outlines: Sequence[Prompt], rows: int | None = None) -> list[Batch]:
        """Batches of at most `rows` cases; until the next plan, all that is read begins as these do."""
        token = self.model.config.image_token_id
        length = common(outlines, token) if len(outlines) > 1 else 0
        self.header = read_header(self.model, outlines[0].ids[:length]) if length >= LEAST else None
        start = 0 if self.header is None else length
        return plan(outlines, token, header=start, tokens=self.tokens, rows=rows)

    def read(self, cases: Sequence[Case], prompts: Sequence[Prompt], batch: Batch) -> list[Verdict]:
        """A verdict for each case."""
        raise NotImplementedError


class Scorer(Reader):
    """Verdicts by the log-probabilities of the two words."""

    tokens = 2048  # more in one batch take as long a token, and more memory

    def __init__(self, model: Base, encoder: Encoder) -> None:
        super().__init__(model)
        self.words = verdict_ids(encoder)

    def read(self, cases: Sequence[Case], prompts: Sequence[Prompt], batch: Batch) -> list[Verdict]:
        """A verdict for each case. Raises MedloraError where a log-probability is not a number."""
        places = [f"{case.where}: case {case.id!r}" for case in cases]
        found = self.p_errors(prompts, batch.stem, places)
        return [("ERROR" if p_error >= EVEN else "CORRECT", p_error, None) for p_error in found]

    def p_errors(
        self, prompts: Sequence[Prompt], stem: int = 0, places: Sequence[str] | None = None
    ) -> list[float]:
        """The probability of ERROR against CORRECT after each prompt; errors name it by its place."""
        found = answer_log_probs(self.model, prompts, self.words, self.header, stem)
        probabilities: list[float] = []
        for place, row in zip(places or ["the prompt"] * len(prompts), found, strict=True):
            error, correct = (float(value) for value in row)
            if not (math.isfinite(error) and math.isfinite(correct)):
                raise MedloraError(
                    f"{place} got log-probabilities {error} and {correct}",
                    hint="The weights or the adapter hold values that are not numbers: make them again.",
                )
            probabilities.append(_softmax_first(error, correct))
        return probabilities


class Writer(Reader):
    """Verdicts read from what the model writes, greedily."""

    tokens = 4096  # each step reads all weights, which many rows share

    def __init__(self, model: Base, encoder: Encoder, max_tokens: int) -> None:
        super().__init__(model)
        self.encoder, self.max_tokens = encoder, max_tokens
        self.markers = answers.thinking_ids(encoder.tokenizer)

    def read(self, cases: Sequence[Case], prompts: Sequence[Prompt], batch: Batch) -> list[Verdict]:
        """A verdict and the text it was read from for each case."""
        stops = self.model.config.eos_token_ids
        written = generate(
            self.model,
            prompts,
            max_tokens=self.max_tokens,
            eos_ids=stops,
            header=self.header,
            stem=batch.stem,
        )
        texts = (decoded(self.encoder, ids, self.markers) for ids in written)
        return [(answers.parse_answer(text), None, text) for text in texts]


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


def decoded(encoder: Encoder, ids: Sequence[int], markers: tuple[int, int] | None) -> str:
    """The answer's text: thinking and special tokens left out."""
    kept = answers.without_thinking(ids, markers)
    return str(encoder.tokenizer.decode(kept, skip_special_tokens=True))


def _softmax_first(a: float, b: float) -> float:
    """exp(a) / (exp(a) + exp(b)), without overflow."""
    ratio = math.exp(-abs(a - b))
    return (1.0 if a >= b else ratio) / (1.0 + ratio)
