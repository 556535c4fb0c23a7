"""How likely the model finds given answers: one shared prefill, then each answer's tokens."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.gemma.cache import Cache
from mlx_medlora.gemma.model import Base


@dataclass(frozen=True)
class Prompt:
    """What the model reads before it answers: ids (L,) int32; features (N * T, D) of its images, or None."""

    ids: npt.NDArray[np.int32]
    features: mx.array | None = None


def prefill(model: Base, prompts: Sequence[Prompt]) -> tuple[mx.array, Cache]:
    """Read a batch of prompts, padded on the left. Returns logits (B, V) of the next token and the cache.

    Raises ValueError for an empty batch or an empty prompt.
    """
    if not prompts or not all(len(prompt.ids) for prompt in prompts):
        raise ValueError("every prompt needs at least one token, and a batch at least one prompt")
    length = max(len(prompt.ids) for prompt in prompts)
    padding = [length - len(prompt.ids) for prompt in prompts]
    pad = model.config.pad_token_id
    ids = np.stack(
        [np.pad(p.ids, (n, 0), constant_values=pad) for p, n in zip(prompts, padding, strict=True)]
    )
    shown = [prompt.features for prompt in prompts if prompt.features is not None]
    features = mx.concatenate(shown) if shown else None
    tokens = mx.array(ids)  # (B, L)
    attention = mx.arange(length)[None] >= mx.array(padding)[:, None] if any(padding) else None
    types = (tokens == model.config.image_token_id).astype(mx.int32) if shown else None
    cache = Cache(model.config.text, padding)
    hidden = model.hidden(model.embed(tokens, features), attention, types, cache)  # (B, L, D)
    return model.head(hidden[:, -1]), cache


def step(model: Base, tokens: mx.array, cache: Cache) -> mx.array:
    """Feed one token a row, (B,) -> logits (B, V) of the next."""
    return model.head(model.hidden(model.embed(tokens[:, None]), cache=cache)[:, -1])


def answer_log_probs(
    model: Base, prompts: Sequence[Prompt], answers: Sequence[Sequence[int]]
) -> npt.NDArray[np.float64]:
    """Sum of token log-probabilities of each answer after each prompt, (B, number of answers), in nats.

    The prompts are read once; every answer continues from there. Raises ValueError for an empty answer.
    """
    if not all(answers):
        raise ValueError("an answer needs at least one token")
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
