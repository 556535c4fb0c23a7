"""Reading on from a shared beginning equals reading each prompt whole."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from mlx_medlora.gemma.generate import prefill
from mlx_medlora.gemma.masks import make_masks
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.reading import read_header
from mlx_medlora.gemma.scoring import answer_log_probs
from mlx_medlora.gemma.sharing import Ids, Prompt, common

SOFT, BOI, EOI = 300, 301, 302
IMAGE = [BOI, *[SOFT] * 4, EOI]
ANSWERS = [[7], [9, 11]]


def words(count: int, seed: int) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(5, 290, count)]


def features(seed: int, images: int = 1) -> mx.array:
    return mx.random.normal((images * 4, 64), key=mx.random.key(seed))


def prompt(ids: list[int], image: int | None = None, count: int = 1) -> Prompt:
    array = np.array(ids, np.int32)
    return (
        Prompt(array, images=()) if image is None else Prompt(array, features(image, count), (f"i{image}",))
    )


HEADER = [2, *words(19, 0)]
LONG = [2, *words(60, 1)]
CASES: dict[str, list[Prompt]] = {
    "text": [prompt([*HEADER, *words(n, n)]) for n in (3, 9, 1)],
    "own images": [prompt([*HEADER, *IMAGE, *words(n, n)], n) for n in (5, 9, 2)],
    "images at other places": [prompt([*HEADER, *words(n, n), *IMAGE, *words(4, 9)], n) for n in (2, 7)],
    "two images each": [prompt([*HEADER, *IMAGE, *IMAGE, *words(n, n)], n, 2) for n in (5, 8)],
    "with and without image": [
        prompt([*HEADER, *IMAGE, *words(5, 3)], 4),
        prompt([*HEADER, *words(8, 5)]),
        prompt([*HEADER, *IMAGE, *words(2, 6)], 6),
    ],
    "a header longer than the window": [prompt([*LONG, *IMAGE, *words(n, n)], n) for n in (5, 30)],
    "an image across the window's edge": [
        prompt([*HEADER, *words(1, n), *IMAGE, *words(30, n)], n) for n in (1, 2)
    ],
}


@pytest.fixture
def model(tiny_model: Gemma3) -> Gemma3:
    """The tiny model with weights at which each part matters."""
    mx.random.seed(3)
    weights = [
        (name, mx.random.normal(value.shape) * (0.5 if "norm" in name else 0.12))
        for name, value in mx_flatten(tiny_model)
    ]
    tiny_model.load_weights(weights)
    return tiny_model


def mx_flatten(model: Gemma3) -> list[tuple[str, mx.array]]:
    from mlx.utils import tree_flatten

    return list(tree_flatten(model.parameters()))


def plain(model: Gemma3, one: Prompt, answer: list[int]) -> float:
    """The answer's log-probability from one whole forward, without cache or padding."""
    ids = mx.array([*one.ids.tolist(), *answer])[None]
    soft = (ids == SOFT).astype(mx.int32)
    logits = model.head(model.hidden(model.embed(ids, one.features), token_type_ids=soft))[0]
    log_probs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    start = len(one.ids) - 1
    return sum(log_probs[start + place, token].item() for place, token in enumerate(answer))


def expected(model: Gemma3, prompts: list[Prompt], answers: list[list[int]]) -> np.ndarray:
    return np.array([[plain(model, one, answer) for answer in answers] for one in prompts])


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("answers", [ANSWERS, [[7], [9]], [[4, 5, 6], [7, 8]]], ids=str)
def test_scores_equal_a_plain_forward(model: Gemma3, name: str, answers: list[list[int]]) -> None:
    prompts = CASES[name]
    wanted = expected(model, prompts, answers)
    np.testing.assert_allclose(answer_log_probs(model, prompts, answers), wanted, rtol=1e-6)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("answers", [ANSWERS, [[4, 5, 6], [7, 8]]], ids=str)
def test_a_header_read_before_changes_nothing(model: Gemma3, name: str, answers: list[list[int]]) -> None:
    prompts = CASES[name]
    length = common(prompts, SOFT)
    assert length >= 20
    header = read_header(model, prompts[0].ids[:length])
    found = answer_log_probs(model, prompts, answers, header)
    np.testing.assert_allclose(found, expected(model, prompts, answers), rtol=1e-6)


@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize("more", [0, 2])
def test_prompts_of_the_same_images_share_them(model: Gemma3, with_header: bool, more: int) -> None:
    tails = [words(n, n) for n in (4, 9, 6, 12, 5)]
    shown = [1, 2, 1, 1, 2]
    prompts = [
        prompt([*HEADER, *IMAGE, *words(more, 1), *tail], i) for tail, i in zip(tails, shown, strict=True)
    ]
    header = read_header(model, np.array(HEADER, np.int32)) if with_header else None
    seen = counted(model)
    stem = len(HEADER) + len(IMAGE) + more
    found = answer_log_probs(model, prompts, ANSWERS, header, stem)
    start = len(HEADER) if with_header else 0
    assert seen == [(2, stem - start), (5, 13)]
    np.testing.assert_allclose(found, expected(model, prompts, ANSWERS), rtol=1e-6)


def counted(model: Gemma3) -> list[tuple[int, ...]]:
    """The shapes of what is embedded from now on."""
    seen: list[tuple[int, ...]] = []
    whole: Callable[..., mx.array] = model.embed

    def embed(ids: mx.array, given: mx.array | None = None) -> mx.array:
        seen.append(ids.shape)
        return whole(ids, given)

    model.embed = embed  # type: ignore[method-assign]
    return seen


def test_a_change_in_the_header_or_image_is_felt(model: Gemma3) -> None:
    prompts = CASES["own images"]
    header = read_header(model, np.array(HEADER, np.int32))
    other = read_header(model, np.array([*HEADER[:-1], 8], np.int32))
    before = answer_log_probs(model, prompts, ANSWERS, header)
    assert np.abs(answer_log_probs(model, prompts, ANSWERS, other) - before).min() > 1e-3
    changed = [prompt(list(one.ids), 77) for one in prompts]
    assert np.abs(answer_log_probs(model, changed, ANSWERS, header) - before).min() > 1e-3


class Watched(nn.Module):
    """A module that notes the shapes it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def __call__(self, x: mx.array) -> mx.array:
        self.seen.append(x.shape[:2])
        return self.inner(x)


def test_the_last_layer_and_the_head_work_for_the_answers_alone(model: Gemma3) -> None:
    prompts = CASES["own images"]
    first, last = model.text.layers[0], model.text.layers[-1]
    for place, name in ((first.mlp, "gate_proj"), (last.mlp, "gate_proj"), (last.self_attn, "q_proj")):
        setattr(place, name, Watched(getattr(place, name)))
    answer_log_probs(model, prompts, ANSWERS)
    prefill(model, prompts)
    assert last.mlp.gate_proj.seen == last.self_attn.q_proj.seen == [(3, 2), (3, 1)]
    assert first.mlp.gate_proj.seen == [(3, 36), (3, 35)]


def test_masks_that_continue_are_the_last_rows_of_the_whole() -> None:
    ids: Ids = np.array(
        [[*HEADER, *IMAGE, *words(9, 1)], [*HEADER, *words(3, 1), *IMAGE, *words(6, 1)]], np.int32
    )
    types = mx.array((ids == SOFT).astype(np.int32))
    whole, rest = (
        make_masks(ids.shape[1], 24, None, types),
        make_masks(15, 24, None, types[:, 20:], before=20),
    )
    for kind in ("full_attention", "sliding_attention"):
        assert mx.array_equal(getattr(whole, kind)[:, :, 20:], getattr(rest, kind))


@pytest.mark.parametrize("wrong", [[], [Prompt(np.array([], np.int32))]])
def test_nothing_to_read_is_refused(model: Gemma3, wrong: list[Prompt]) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        answer_log_probs(model, wrong, ANSWERS)
    with pytest.raises(ValueError, match="an answer needs"):
        answer_log_probs(model, CASES["text"], [[1], []])
