"""Against numpy in fp64, and gradients against MLX's own functions."""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from mlx_medlora.gemma import elementwise
from mlx_medlora.gemma.elementwise import cross_entropy, gated_gelu, gelu, log_sum_exp, softmax

WIDE = np.linspace(-30, 30, 60_001).astype(np.float32)


def true_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def test_exp_is_within_an_ulp_or_so_and_0_far_below() -> None:
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    found = np.array(elementwise.polynomial_exp(mx.array(x))).astype(np.float64)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=1.3e-7)
    assert elementwise.polynomial_exp(mx.array([-88.0, -1e30, -math.inf])).tolist() == [0, 0, 0]
    assert elementwise.polynomial_exp(mx.array([0.0])).item() == 1


def test_exp_passes_nan_on() -> None:
    """A value that is no number must not become one: training stops on it."""
    assert math.isnan(softmax(mx.array([1.0, math.nan])).sum().item())
    assert math.isnan(gelu(mx.array([math.nan])).item())
    assert math.isnan(cross_entropy(mx.array([[1.0, math.nan]]), mx.array([0])).item())


def test_gelu() -> None:
    wanted = true_gelu(WIDE.astype(np.float64))
    np.testing.assert_allclose(np.array(gelu(mx.array(WIDE))), wanted, atol=4e-7, rtol=4e-7)
    twice = gated_gelu(mx.array(WIDE), mx.full(WIDE.shape, 2.0))
    np.testing.assert_allclose(np.array(twice), 2 * wanted, atol=8e-7, rtol=4e-7)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_gelus_gradients(dtype: mx.Dtype) -> None:
    key = mx.random.key(0)
    x, up, weight = ((mx.random.normal((3, 50), key=k) * 3).astype(dtype) for k in mx.random.split(key, 3))
    tolerance = 2e-6 if dtype == mx.float32 else 0.05

    def compare(ours: Callable[..., mx.array], theirs: Callable[..., mx.array], *inputs: mx.array) -> None:
        numbers = tuple(range(len(inputs)))
        found = mx.grad(lambda *a: (ours(*a) * weight).sum(), argnums=numbers)(*inputs)
        wanted = mx.grad(lambda *a: (theirs(*a) * weight.astype(mx.float32)).sum(), argnums=numbers)(
            *(a.astype(mx.float32) for a in inputs)
        )
        for one, other in zip(found, wanted, strict=True):
            assert one.dtype == dtype
            np.testing.assert_allclose(
                np.array(one.astype(mx.float32)), np.array(other), atol=tolerance * float(mx.abs(other).max())
            )

    compare(gelu, nn.gelu_approx, x)
    compare(gated_gelu, lambda a, b: nn.gelu_approx(a) * b, x, up)


def test_softmax_and_its_gradient() -> None:
    scores = mx.random.normal((4, 9, 33), key=mx.random.key(1)) * 5
    scores = mx.where(mx.arange(33) % 4 == 0, -mx.inf, scores)
    weight = mx.random.normal(scores.shape, key=mx.random.key(2))
    wide = np.array(scores).astype(np.float64)
    powers = np.exp(wide - wide.max(-1, keepdims=True))
    found = np.array(softmax(scores))
    np.testing.assert_allclose(found, powers / powers.sum(-1, keepdims=True), atol=2e-7)
    assert (found[..., ::4] == 0).all(), "what is masked has no share at all"
    ours = mx.grad(lambda s: (softmax(s) * weight).sum())(scores)
    theirs = mx.grad(lambda s: (mx.softmax(s, axis=-1) * weight).sum())(scores)
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-6)


def test_cross_entropy_and_its_gradient() -> None:
    logits = mx.random.normal((2, 3, 101), key=mx.random.key(3)) * 4
    targets = mx.array([[0, 100, 7], [7, 7, 55]])
    weight = mx.array([[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]])

    def plain(x: mx.array) -> mx.array:
        return nn.losses.cross_entropy(x, targets, reduction="none")

    np.testing.assert_allclose(
        np.array(cross_entropy(logits, targets)), np.array(plain(logits)), rtol=1e-6, atol=1e-6
    )
    ours = mx.grad(lambda x: (cross_entropy(x, targets) * weight).sum())(logits)
    theirs = mx.grad(lambda x: (plain(x) * weight).sum())(logits)
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-6)
    ours = mx.grad(lambda x: (log_sum_exp(x) * weight).sum())(logits)
    theirs = mx.grad(lambda x: (mx.logsumexp(x, axis=-1) * weight).sum())(logits)
    np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=1e-6)
