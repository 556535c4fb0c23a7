"""Attention on the CPU against MLX's own, whole and in pieces; positions alone against all of them."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.gemma import attention
from mlx_medlora.gemma.attention import attend
from mlx_medlora.gemma.model import Gemma3

MASKS = ("none", "causal", "own", "shared")


def inputs(length: int = 13, keys: int = 13) -> tuple[mx.array, mx.array, mx.array]:
    parts = mx.random.split(mx.random.key(5), 3)
    shapes = ((2, 4, length, 8), (2, 2, keys, 8), (2, 2, keys, 8))
    return tuple(mx.random.normal(s, key=k) for s, k in zip(shapes, parts, strict=True))  # type: ignore[return-value]


def mask_of(kind: str, length: int, keys: int) -> mx.array | str | None:
    if kind in ("none", "causal"):
        return None if kind == "none" else kind
    rows = 2 if kind == "own" else 1
    drawn = mx.random.bernoulli(0.5, (rows, 1, length, keys), key=mx.random.key(6))
    return drawn | (mx.arange(keys) == 0)


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize(("length", "keys"), [(13, 13), (3, 13)])
def test_it_is_mlxs_attention_and_gradient(
    kind: str, length: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, mask = inputs(length, keys), mask_of(kind, length, keys)
    weight = mx.random.normal((2, 4, length, 8), key=mx.random.key(7))

    def ours(*qkv: mx.array) -> mx.array:
        return (attend(*qkv, 0.3, mask) * weight).sum()

    def theirs(*qkv: mx.array) -> mx.array:
        return (mx.fast.scaled_dot_product_attention(*qkv, scale=0.3, mask=mask) * weight).sum()

    wanted = mx.value_and_grad(theirs, argnums=(0, 1, 2))(*given)
    # in one piece with its scores kept, then recomputed, and two or three queries at a time
    for kept, most in ((1 << 21, 1 << 22), (0, 1 << 22), (0, 300)):
        monkeypatch.setattr(attention, "_KEPT", kept)
        monkeypatch.setattr(attention, "_SCORES", most)
        found = mx.value_and_grad(ours, argnums=(0, 1, 2))(*given)
        assert found[0].item() == pytest.approx(wanted[0].item(), rel=1e-5, abs=1e-5)
        for one, other in zip(found[1], wanted[1], strict=True):
            np.testing.assert_allclose(np.array(one), np.array(other), atol=2e-6)


def test_pieces_hold_less(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (mx.random.normal((1, 4, 1024, 16), key=mx.random.key(i)) for i in range(3))
    mx.eval(q, k, v)
    peaks = []
    for most in (1 << 30, 1 << 18):
        monkeypatch.setattr(attention, "_SCORES", most)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(attend(q, k, v, 0.25))
        peaks.append(mx.get_peak_memory() - before)
    assert peaks[1] < peaks[0] / 4


@pytest.mark.parametrize("images", [False, True])
def test_wanted_positions_are_those_of_all(tiny_model: Gemma3, images: bool) -> None:
    """Rows longer than the window, whose last layer is a sliding one."""
    rng = np.random.default_rng(1)
    ids = rng.integers(10, 250, (2, 40)).astype(np.int32)
    if images:
        ids[:, 4:10] = [301, 300, 300, 300, 300, 302]
    tokens = mx.array(ids)
    features = mx.random.normal((2, 4, 64), key=mx.random.key(3)) if images else None
    types = (tokens == 300).astype(mx.int32) if images else None
    embedded = tiny_model.embed(tokens, features)
    wanted = mx.array([[0, 39, 20], [6, 7, 7]])
    whole = tiny_model.hidden(embedded, token_type_ids=types)
    found = tiny_model.hidden(embedded, token_type_ids=types, wanted=wanted)
    chosen = mx.take_along_axis(whole, wanted[..., None], axis=1)
    assert found.shape == (2, 3, 64)
    np.testing.assert_allclose(np.array(found), np.array(chosen), atol=2e-6 * float(mx.abs(whole).max()))


@pytest.mark.parametrize("count", [0, 3, 7])
def test_layers_below_and_above_make_the_whole(tiny_model: Gemma3, count: int) -> None:
    embedded = tiny_model.embed(
        mx.array(np.random.default_rng(2).integers(10, 250, (2, 30)).astype(np.int32))
    )
    entering = tiny_model.below(embedded, None, count)
    found = tiny_model.hidden(entering, first=count)
    assert mx.array_equal(found, tiny_model.hidden(embedded))
