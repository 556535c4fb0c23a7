"""Writing answers, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from mlx_medlora.gemma.cache import WritingCache
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.reading import Trunk, read_prompts
from mlx_medlora.gemma.rope import table_at
from mlx_medlora.gemma.sharing import Prompt
from mlx_medlora.gemma.text import Tables

Sampler = Callable[[mx.array], mx.array]
_TABLE = 256  # rotary tables are made for this many positions at a time


def banned(config: ModelConfig) -> mx.array:
    """(V,) True for what is never an answer's token: padding, image markers, rows without a token.

    Gemma 3's embedding has rows after the soft token (262145 to 262207) that no token uses.
    """
    ids = mx.arange(config.text.vocab_size)
    never = (ids >= config.image_token_id) | (ids == config.pad_token_id) | (ids == config.bos_token_id)
    return never | (ids == config.boi_token_id) | (ids == config.eoi_token_id)


def prefill(
    model: Base, prompts: Sequence[Prompt], header: Trunk | None = None, stem: int = 0
) -> tuple[mx.array, WritingCache]:
    """Read a batch of prompts, as `read_prompts` does: logits (B, V) of the next token, and the cache."""
    hidden, read = read_prompts(model, prompts, header, stem)  # (B, 1, D)
    lengths = [len(prompt.ids) for prompt in prompts]
    return model.head(hidden[:, 0]), WritingCache(model.config.text, read.held, lengths)


def step(model: Base, tokens: mx.array, cache: WritingCache) -> mx.array:
    """Feed one token a row, (B,) -> logits (B, V) of the next."""
    tables = None if cache.places is None else _tables(model, cache.places)
    embedded = model.embed(tokens[:, None])
    hidden = model.text(embedded, cache.decode_masks(), cache, tables=tables)  # (B, 1, D)
    return model.head(hidden[:, 0])


def _tables(model: Base, places: list[int]) -> Tables:
    """Rotary tables for each row's one token at a position of its own, since rows are not equally long."""
    length = -(-(max(places) + 1) // _TABLE) * _TABLE
    positions = mx.array(places)[:, None]  # (B, 1)
    return {kind: table_at(table, positions) for kind, table in model.text.tables(0, length).items()}


def generate(
    model: Base,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int,
    sampler: Sampler | None = None,
    eos_ids: Sequence[int] = (),
    header: Trunk | None = None,
    stem: int = 0,
) -> list[list[int]]:
    """Continue each prompt by up to `max_tokens` ids; the stop token (one of `eos_ids`) is left off.

    `sampler` takes log-probabilities (B, V) and gives ids (B,), as mlx-lm's samplers do; without one the
    likeliest token is taken. Prompts of different lengths share a batch; those whose answer is complete
    leave it, and cost nothing from then on. `header` and `stem` as in `read_prompts`.
    """
    if max_tokens < 1:
        return [[] for _ in prompts]
    never, stops = banned(model.config), set(eos_ids)
    logits, cache = prefill(model, prompts, header, stem)
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
