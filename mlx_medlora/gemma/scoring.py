"""How likely the model finds given answers: one forward over each prompt with an answer behind it.

Letters: B prompts, Q positions, D width, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.gemma.elementwise import log_sum_exp
from mlx_medlora.gemma.generate import prefill, step
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.reading import Trunk, read_prompts
from mlx_medlora.gemma.sharing import Prompt

__all__ = ["Prompt", "answer_log_probs"]


def answer_log_probs(
    model: Base,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    header: Trunk | None = None,
    stem: int = 0,
) -> npt.NDArray[np.float64]:
    """Sum of token log-probabilities of each answer after each prompt, (B, number of answers), in nats.

    `header` holds the first tokens of every prompt, read before. Prompts that agree in their first `stem`
    tokens and in their images read those once; see `sharing.plan`. The head is computed where an answer's
    tokens are told, and nowhere else. Raises ValueError for an empty prompt, answer or batch.
    """
    if not all(answers):
        raise ValueError("an answer needs at least one token")
    longer = [answer for answer in answers if len(answer) > 1]
    if len(longer) > 1:
        return _one_by_one(model, prompts, answers, header, stem)
    behind = np.array(longer[0][:-1] if longer else [], np.int32)
    hidden, _ = read_prompts(model, prompts, header, stem, behind)
    logits = model.head(hidden).astype(mx.float32)  # (B, Q, V)
    total = log_sum_exp(logits)  # (B, Q)
    columns = [
        sum((logits[:, place, token] - total[:, place] for place, token in enumerate(answer)), mx.array(0.0))
        for answer in answers
    ]
    return np.array(mx.stack(columns, axis=1), np.float64)


def _one_by_one(
    model: Base,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[int]],
    header: Trunk | None,
    stem: int,
) -> npt.NDArray[np.float64]:
    """The same for several answers of many tokens: the prompts are read once, each answer token by token."""
    logits, cache = prefill(model, prompts, header, stem)
    first = _log_softmax(logits)
    start = cache.snapshot()
    columns = []
    for answer in answers:
        total = first[:, answer[0]]
        if len(answer) > 1:
            cache.restore(start)
        for token, following in itertools.pairwise(answer):
            found = step(model, mx.full((len(prompts),), token, dtype=mx.int32), cache)
            total = total + _log_softmax(found)[:, following]
        columns.append(total)
    return np.array(mx.stack(columns, axis=1), np.float64)


def _log_softmax(logits: mx.array) -> mx.array:
    wide = logits.astype(mx.float32)
    return wide - mx.logsumexp(wide, axis=-1, keepdims=True)
