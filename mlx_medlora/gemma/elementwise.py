"""GELU, softmax and cross-entropy with gradients of their own.

Each keeps for the backward pass only what it must, and is one fused kernel a pass. On the CPU backend
MLX takes exp and tanh from the C library, one element at a time: 10 to 40 ns each, which was two thirds of a
training step there. Its products, sums and integer shifts are vectorised, so in fp32 exp is built from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import mlx.core as mx
from mlx import nn

_CUBIC = 0.044715
_SLOPE = 2 * math.sqrt(2 / math.pi)  # tanh(u) = 2 sigmoid(2 u) - 1
# Degree-5 minimax polynomial of (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2. Source: Cephes, `expf.c`.
_COEFFICIENTS = (
    1.9875691500e-4,
    1.3981999507e-3,
    8.3334519073e-3,
    4.1665795894e-2,
    1.6666665459e-1,
    5.0000001201e-1,
)
_PIECE = 1 << 20  # numbers in one piece of a long sum of exponentials: 4 MiB
_ROUND = 1.5 * 2**23  # so large that fp32 has no fraction left
_LN2 = (0.693359375, -2.12194440e-4)  # high and low part

Unary = Callable[[mx.array], mx.array]
Function = TypeVar("Function", bound=Callable[..., mx.array])


def _with_gradient(vjp: Callable[..., Any]) -> Callable[[Function], Function]:
    """Give a function the gradient `vjp(inputs, cotangent, output)`."""

    def decorate(function: Function) -> Function:
        found = mx.custom_function(function)
        found.vjp(vjp)
        return cast(Function, found)

    return decorate


def polynomial_exp(x: mx.array) -> mx.array:
    """Exp of fp32 values within 9e-8 of the true one; 0 below -87.7, as exp(88) above 88."""
    x = mx.clip(x, -88.0, 88.0)  # at -88 the exponent's bits are all 0, which is 0 itself
    shifted = x * math.log2(math.e) + _ROUND  # its last bits are the rounded power of two
    power = shifted - _ROUND
    rest = x - power * _LN2[0] - power * _LN2[1]
    series = _COEFFICIENTS[0] * rest + _COEFFICIENTS[1]
    for coefficient in _COEFFICIENTS[2:]:
        series = series * rest + coefficient
    exponent = ((shifted.view(mx.int32) + 127) << 23).view(mx.float32)  # 2 ** power, bit by bit
    return (series * rest * rest + rest + 1.0) * exponent


def _exp_for(x: mx.array) -> Unary:
    scalar = x.dtype == mx.float32 and mx.default_device() == mx.Device(mx.cpu)
    return polynomial_exp if scalar else mx.exp


def _gate(x: mx.array) -> mx.array:
    """The factor by which GELU multiplies x: (1 + tanh(...)) / 2, written as a sigmoid."""
    return 1 / (1 + _exp_for(x)(-_SLOPE * (x + _CUBIC * x * x * x)))


def _slope(x: mx.array, gate: mx.array) -> mx.array:
    """GELU's derivative."""
    return gate + x * gate * (1 - gate) * _SLOPE * (1 + 3 * _CUBIC * x * x)


@mx.compile
def _gelu_forward(x: mx.array) -> mx.array:
    return x * _gate(x)


@mx.compile
def _gelu_backward(x: mx.array, cotangent: mx.array) -> mx.array:
    return cotangent * _slope(x, _gate(x))


@mx.compile
def _gated_forward(gate: mx.array, up: mx.array) -> mx.array:
    return gate * _gate(gate) * up


@mx.compile
def _gated_backward(gate: mx.array, up: mx.array, cotangent: mx.array) -> tuple[mx.array, mx.array]:
    factor = _gate(gate)
    return cotangent * up * _slope(gate, factor), cotangent * gate * factor


def _later(inputs: Sequence[mx.array], cotangent: mx.array) -> list[mx.array]:
    """The same arrays, for the backward pass alone.

    Where a whole step is compiled MLX finds what both passes compute, computes it once, and so keeps it.
    """
    found: list[mx.array] = mx.depends(list(inputs), [cotangent])
    return found


def _gelu_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    (x,) = _later([x], cotangent)
    wide = x.astype(mx.float32)
    return _gelu_backward(wide, cotangent.astype(mx.float32)).astype(x.dtype)


@_with_gradient(_gelu_vjp)
def gelu(x: mx.array) -> mx.array:
    """GELU in its tanh form, elementwise, in x's dtype."""
    return _gelu_forward(x) if x.dtype == mx.float32 else nn.gelu_approx(x)


def _gated_vjp(
    inputs: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    gate, up = _later(inputs, cotangent)
    wide = (array.astype(mx.float32) for array in (gate, up, cotangent))
    to_gate, to_up = _gated_backward(*wide)
    return to_gate.astype(gate.dtype), to_up.astype(up.dtype)


@_with_gradient(_gated_vjp)
def gated_gelu(gate: mx.array, up: mx.array) -> mx.array:
    """gelu(gate) * up, elementwise, in their dtype; the backward pass keeps the two inputs alone."""
    return _gated_forward(gate, up) if gate.dtype == mx.float32 else nn.gelu_approx(gate) * up


@mx.compile
def _exp(x: mx.array) -> mx.array:
    return _exp_for(x)(x)


def _softmax_vjp(scores: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return output * (cotangent - mx.sum(cotangent * output, axis=-1, keepdims=True))


@_with_gradient(_softmax_vjp)
def softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis; a row of (..., L) sums to 1. Meant for fp32 on the CPU backend."""
    powers = _exp(scores - mx.max(scores, axis=-1, keepdims=True))
    return powers / mx.sum(powers, axis=-1, keepdims=True)


def _cross_entropy_vjp(
    inputs: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    logits, targets = inputs
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    probabilities = _exp(logits - (output + chosen)[..., None])  # output + chosen is the logarithm of the sum
    right = mx.arange(logits.shape[-1]) == targets[..., None]
    return cotangent[..., None] * (probabilities - right), mx.zeros_like(targets)


@_with_gradient(_cross_entropy_vjp)
def cross_entropy(logits: mx.array, targets: mx.array) -> mx.array:
    """-log p of `targets` (...,) int32 under fp32 `logits` (..., V), shape (...,)."""
    chosen = mx.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_sum_exp(logits) - chosen


def _log_sum_exp_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent[..., None] * _exp(x - output[..., None])


@_with_gradient(_log_sum_exp_vjp)
def log_sum_exp(x: mx.array) -> mx.array:
    """log(sum(exp(x))) over the last axis of fp32 x, some rows after the others: exp takes room."""
    rows = x.reshape(-1, x.shape[-1])
    count = max(1, _PIECE // rows.shape[1])
    found: list[mx.array] = []
    for start in range(0, rows.shape[0], count):
        piece = rows[start : start + count]
        if found:
            piece = mx.depends(piece, found[-1])
        largest = mx.max(piece, axis=-1, keepdims=True)
        found.append(mx.log(mx.sum(_exp(piece - largest), axis=-1)) + largest[:, 0])
    return mx.concatenate(found).reshape(x.shape[:-1])
