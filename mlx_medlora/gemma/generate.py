"""Writing answers, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.scoring import Prompt, prefill, step

Sampler = Callable[[mx.array], mx.array]


def banned(config: ModelConfig) -> mx.array:
    """(V,) True for what is never an answer's token: padding, image markers, rows without a token.

    Gemma 3's embedding has rows after the soft token (262145 to 262207) that no token uses.
    """
    ids = mx.arange(config.text.vocab_size)
    never = (ids >= config.image_token_id) | (ids == config.pad_token_id) | (ids == config.bos_token_id)
    return never | (ids == config.boi_token_id) | (ids == config.eoi_token_id)


def generate(
    model: Base,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    sampler: Sampler | None = None,
    eos_ids: Sequence[int] = (),
) -> list[list[int]]:
    """Continue each prompt by up to `max_tokens` ids; the stop token (one of `eos_ids`) is left off.

    `sampler` takes log-probabilities (B, V) and gives ids (B,), as mlx-lm's samplers do; without one the
    likeliest token is taken. Prompts of different lengths share a batch, padded on the left.
    """
    if max_tokens < 1:
        return [[] for _ in prompts]
    never, stops = banned(model.config), set(eos_ids)
    logits, cache = prefill(model, prompts)
    written: list[list[int]] = [[] for _ in prompts]
    unfinished = set(range(len(prompts)))
    for count in range(max_tokens):
        tokens = _choose(logits, never, sampler)
        for row, token in enumerate(np.array(tokens).tolist()):
            if row in unfinished and token in stops:
                unfinished.discard(row)
            elif row in unfinished:
                written[row].append(token)
        if not unfinished or count == max_tokens - 1:
            break
        logits = step(model, tokens, cache)
    return written


def _choose(logits: mx.array, never: mx.array, sampler: Sampler | None) -> mx.array:
    """(B, V) logits -> (B,) ids."""
    allowed = mx.where(never, -mx.inf, logits.astype(mx.float32))
    if sampler is None:
        return mx.argmax(allowed, axis=-1)
    return sampler(allowed - mx.logsumexp(allowed, axis=-1, keepdims=True))
