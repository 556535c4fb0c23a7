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
from mlx_medlora.gemma.reading import Trunk, read
from mlx_medlora.gemma.sharing import Ids, Prompt, stems

__all__ = ["Prompt", "answer_log_probs", "read_header"]


def read_header(model: Base, ids: Ids) -> Trunk:
    """Read the tokens (P,) that all prompts begin with, for `answer_log_probs` to go on from."""
    last = np.array([[len(ids) - 1]], np.int32)
    trunk = read(model, [ids], None, last)[1].trunk()
    mx.eval(trunk.keys, trunk.values)
    return trunk


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
    if not prompts or not all(len(prompt.ids) for prompt in prompts):
        raise ValueError("every prompt needs at least one token, and a batch at least one prompt")
    if not all(answers):
        raise ValueError("an answer needs at least one token")
    longer = [answer for answer in answers if len(answer) > 1]
    if len(longer) > 1:
        return _one_by_one(model, prompts, answers)
    behind = np.array(longer[0][:-1] if longer else [], np.int32)
    hidden = _hidden(model, prompts, behind, header, stem)
    logits = model.head(hidden).astype(mx.float32)  # (B, Q, V)
    total = log_sum_exp(logits)  # (B, Q)
    columns = [
        sum((logits[:, place, token] - total[:, place] for place, token in enumerate(answer)), mx.array(0.0))
        for answer in answers
    ]
    return np.array(mx.stack(columns, axis=1), np.float64)


def _hidden(model: Base, prompts: Sequence[Prompt], behind: Ids, trunk: Trunk | None, stem: int) -> mx.array:
    """Hidden states (B, 1 + len(behind), D) of each prompt's last token and of `behind`, which follows it."""
    if stem:
        trunk = _read_stems(model, prompts, trunk, stem)
    start = 0 if trunk is None else trunk.length
    rows = [np.concatenate([prompt.ids[start:], behind]) for prompt in prompts]
    last = [len(prompt.ids) - start - 1 for prompt in prompts]
    wanted = np.array([range(place, place + len(behind) + 1) for place in last], np.int32)  # (B, Q)
    return read(model, rows, None if stem else _features(prompts), wanted, trunk)[0]


def _read_stems(model: Base, prompts: Sequence[Prompt], header: Trunk | None, stem: int) -> Trunk:
    """Each distinct stem read once; a beginning for each prompt."""
    first, of = stems(prompts, stem)
    shown = [prompts[row] for row in first]
    start = 0 if header is None else header.length
    last = np.full((len(shown), 1), stem - start - 1, np.int32)
    rows = [prompt.ids[start:stem] for prompt in shown]
    return read(model, rows, _features(shown), last, header)[1].trunk().take(of)


def _features(prompts: Sequence[Prompt]) -> mx.array | None:
    shown = [prompt.features for prompt in prompts if prompt.features is not None]
    return mx.concatenate(shown) if shown else None


def _one_by_one(
    model: Base, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> npt.NDArray[np.float64]:
    """The same for several answers of many tokens: the prompts are read once, each answer token by token."""
    logits, cache = prefill(model, prompts)
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
