"""Writing answers, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.cache import WritingCache
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.sharing import Prompt

Sampler = Callable[[mx.array], mx.array]


def banned(config: ModelConfig) -> mx.array:
    """(V,) True for what is never an answer's token: padding, image markers, rows without a token.

    Gemma 3's embedding has rows after the soft token (262145 to 262207) that no token uses.
    """
    ids = mx.arange(config.text.vocab_size)
    never = (ids >= config.image_token_id) | (ids == config.pad_token_id) | (ids == config.bos_token_id)
    return never | (ids == config.boi_token_id) | (ids == config.eoi_token_id)


def prefill(model: Base, prompts: Sequence[Prompt]) -> tuple[mx.array, WritingCache]:
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
    cache = WritingCache(model.config.text, padding)
    last = mx.full((len(prompts), 1), length - 1, dtype=mx.int32)
    hidden = model.hidden(model.embed(tokens, features), attention, types, cache, last)  # (B, 1, D)
    cache.trim()
    return model.head(hidden[:, -1]), cache


def step(model: Base, tokens: mx.array, cache: WritingCache) -> mx.array:
    """Feed one token a row, (B,) -> logits (B, V) of the next."""
    return model.head(model.hidden(model.embed(tokens[:, None]), cache=cache)[:, -1])


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
    likeliest token is taken. Prompts of different lengths share a batch, padded on the left; those whose
    answer is complete leave it, and cost nothing from then on.
    """
    if max_tokens < 1:
        return [[] for _ in prompts]
    never, stops = banned(model.config), set(eos_ids)
    logits, cache = prefill(model, prompts)
    written: list[list[int]] = [[] for _ in prompts]
    asking = list(range(len(prompts)))  # the prompt of each row that is still in the batch
    for _ in range(max_tokens):
        tokens = _choose(logits, never, sampler)
        chosen = np.array(tokens).tolist()
        going = [row for row, token in enumerate(chosen) if token not in stops]
        for row in going:
            written[asking[row]].append(chosen[row])
        asking = [asking[row] for row in going if len(written[asking[row]]) < max_tokens]
        if not asking:
            break
        if len(going) < len(chosen):
            cache.keep(going)
            tokens = tokens[mx.array(going)]
        logits = step(model, tokens, cache)
    return written


def _choose(logits: mx.array, never: mx.array, sampler: Sampler | None) -> mx.array:
    """(B, V) logits -> (B,) ids."""
    allowed = mx.where(never, -mx.inf, logits.astype(mx.float32))
    if sampler is None:
        return mx.argmax(allowed, axis=-1)
    return sampler(allowed - mx.logsumexp(allowed, axis=-1, keepdims=True))
