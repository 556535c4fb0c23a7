"""Writing with caches that hold only what is still seen."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.generate import banned, generate, prefill, step
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.reading import read_header
from mlx_medlora.gemma.sharing import Prompt

SOFT, WINDOW = 300, 24
IMAGE = [301, *[SOFT] * 4, 302]


def prompt(length: int, image: bool = False) -> Prompt:
    rng = np.random.default_rng(length)
    ids = [2, *rng.integers(5, 290, length - 1).tolist()]
    if not image:
        return Prompt(np.array(ids, np.int32))
    ids[4:4] = IMAGE
    return Prompt(np.array(ids, np.int32), mx.random.normal((4, 64), key=mx.random.key(length)))


PROMPTS = [prompt(70), prompt(9), prompt(60, image=True), prompt(30, image=True), prompt(23)]


@pytest.fixture
def model(tiny_config: ModelConfig) -> Gemma3:
    """A random model with a head of its own, so that greedy answers do not repeat one token."""
    mx.random.seed(3)
    model = Gemma3(tiny_config.model_copy(update={"tied_head": False}))
    model.eval()
    return model


def plain(model: Gemma3, one: Prompt, count: int) -> list[int]:
    """Greedy writing by a whole forward for each token."""
    ids = one.ids.tolist()
    for _ in range(count):
        tokens = mx.array(ids)[None]
        soft = (tokens == SOFT).astype(mx.int32)
        logits = model.head(model.hidden(model.embed(tokens, one.features), token_type_ids=soft))[0, -1]
        ids.append(int(mx.argmax(mx.where(banned(model.config), -mx.inf, logits))))
    return ids[len(one.ids) :]


def test_a_batch_writes_what_whole_forwards_write(model: Gemma3) -> None:
    found = generate(model, PROMPTS, max_tokens=40)
    assert found == [plain(model, one, 40) for one in PROMPTS]
    assert len({token for row in found for token in row}) > 20


@pytest.mark.parametrize("stem", [0, 36])
def test_a_header_and_images_read_once_change_no_answer(model: Gemma3, stem: int) -> None:
    header, shown = prompt(30).ids, mx.random.normal((4, 64), key=mx.random.key(1))
    tails = [prompt(length).ids[1:] for length in (4, 19, 9)]
    prompts = [
        Prompt(np.concatenate([header, np.array(IMAGE, np.int32), tail]), shown, ("one",)) for tail in tails
    ]
    found = generate(model, prompts, max_tokens=30, header=read_header(model, header), stem=stem)
    assert found == [plain(model, one, 30) for one in prompts]


def test_sliding_layers_hold_no_more_than_their_window(model: Gemma3) -> None:
    _, cache = prefill(model, PROMPTS)
    tokens = mx.array([7] * len(PROMPTS))
    for fed in range(3):
        for kind, layer in zip(cache.kinds, cache.layers, strict=True):
            held = layer.keys.shape[2]
            assert held == WINDOW if kind == "sliding_attention" else held >= 70 + fed
        mx.eval(step(model, tokens, cache))


@pytest.mark.parametrize("lengths", [(70, 23), (70, 60), (24, 25), (23, 20), (25, 7)], ids=str)
def test_logits_after_trimming_equal_a_whole_forward(model: Gemma3, lengths: tuple[int, int]) -> None:
    prompts = [prompt(length) for length in lengths]
    _, cache = prefill(model, prompts)
    follow = np.random.default_rng(1).integers(5, 290, (30, 2))
    for count, tokens in enumerate(follow, start=1):
        logits = np.array(step(model, mx.array(tokens), cache))
        for row, one in enumerate(prompts):
            ids = mx.array([*one.ids.tolist(), *follow[:count, row].tolist()])[None]
            whole = np.array(model(ids))[0, -1]
            assert np.abs(logits[row] - whole).max() / np.abs(whole).max() < 2e-6


def test_finished_rows_leave_the_batch_and_change_no_other(
    model: Gemma3, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generate(model, PROMPTS, max_tokens=30)
    stops = [whole[0][3], whole[2][7], whole[3][0], whole[4][12]]
    rows: list[int] = []
    plain_step: Callable[..., mx.array] = step

    def counted(model: Gemma3, tokens: mx.array, cache: object) -> mx.array:
        rows.append(tokens.shape[0])
        return plain_step(model, tokens, cache)

    monkeypatch.setattr("mlx_medlora.gemma.generate.step", counted)
    found = generate(model, PROMPTS, max_tokens=30, eos_ids=stops)
    ends = [next((place for place, token in enumerate(row) if token in stops), 30) for row in whole]
    assert found == [row[:end] for row, end in zip(whole, ends, strict=True)]
    assert rows == [sum(end > count for end in ends) for count in range(min(29, max(ends)))]
    assert len(set(rows)) > 2
    assert any(not row for row in found)
