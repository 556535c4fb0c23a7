"""One question, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.sample_utils import make_sampler

from mlx_medlora import privacy
from mlx_medlora.cases.images import open_image
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.answers import parse_answer, thinking_ids
from mlx_medlora.evaluation.readers import Scorer, decoded
from mlx_medlora.gemma.generate import generate
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt


@dataclass(frozen=True)
class Answer:
    """`text` without thinking; `tokens` written; `finished` is False where max_tokens cut it.

    `p_error` is the probability of ERROR against CORRECT as the answer's first word, where that was asked
    for and the text begins with a verdict.
    """

    text: str
    tokens: int
    finished: bool
    p_error: float | None = None


def answer_one(
    model: Base,
    encoder: Encoder,
    prompt: str,
    *,
    images: Sequence[Path] = (),
    system: str = "",
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    verdict: bool = False,
) -> Answer:
    """Answer `prompt` about `images`; temperature 0 takes the likeliest token each time.

    With `verdict`, an answer that begins with one is scored too, as `eval --method score` does.

    Raises InputError for an empty prompt, an image that cannot be read, images before a text-only
    model, or a prompt longer than the model's context.
    """
    privacy.cases_read()
    if not prompt.strip():
        raise InputError("the prompt is empty", hint='Give it with --prompt "...".')
    if images and model.config.text_only:
        raise InputError("this is a text-only model: it cannot look at images", path=images[0])
    model.eval()
    mx.random.seed(seed)
    asked = _prompt(model, encoder, _turns(prompt, len(images), system), images)
    room = model.config.text.max_position_embeddings - len(asked.ids)
    if room < 1:
        raise InputError(f"the prompt takes {len(asked.ids)} tokens, which fills the model's context")
    sampler = make_sampler(temp=temperature) if temperature > 0 else None
    limit = min(max_tokens, room)
    stops = model.config.eos_token_ids
    ids = generate(model, [asked], max_tokens=limit, sampler=sampler, eos_ids=stops)[0]
    text = decoded(encoder, ids, thinking_ids(encoder.tokenizer))
    said = verdict and parse_answer(text) is not None
    p_error = Scorer(model, encoder).p_errors([asked])[0] if said else None
    return Answer(text.strip(), len(ids), len(ids) < limit, p_error)


def _turns(prompt: str, images: int, system: str) -> list[dict[str, Any]]:
    user = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": prompt}]
    turns: list[dict[str, Any]] = [{"role": "user", "content": user}]
    if system.strip():
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return turns


def _prompt(model: Base, encoder: Encoder, turns: list[dict[str, Any]], images: Sequence[Path]) -> Prompt:
    opened = [open_image(file) for file in images]
    encoded = encoder.encode(turns, opened, with_answer=False)
    features = model.image_features(mx.array(encoder.pixels(opened))) if opened else None  # (N, T, D)
    return Prompt(encoded.ids, None if features is None else features.reshape(-1, features.shape[-1]))
