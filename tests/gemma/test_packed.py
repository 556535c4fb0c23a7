"""Packed layers: the same product and gradient as MLX's, and no unpacked matrix kept."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn

from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.packed import PackedLinear


def layer(inputs: int, outputs: int, bits: int, bias: bool) -> nn.QuantizedLinear:
    mx.random.seed(3)
    return nn.QuantizedLinear.from_linear(nn.Linear(inputs, outputs, bias=bias), 32, bits)


@pytest.mark.parametrize("rows", [1, 7, 8, 50])
@pytest.mark.parametrize(("bits", "bias"), [(4, False), (8, True)])
def test_it_is_mlxs_product_and_gradient(rows: int, bits: int, bias: bool) -> None:
    plain, ours = layer(64, 48, bits, bias), layer(64, 48, bits, bias)
    ours.__class__ = PackedLinear
    x = mx.random.normal((rows, 64))
    np.testing.assert_allclose(np.array(ours(x)), np.array(plain(x)), atol=3e-6)
    wanted, found = (mx.grad(lambda x, m=module: mx.square(m(x)).sum())(x) for module in (plain, ours))
    np.testing.assert_allclose(np.array(found), np.array(wanted), atol=2e-5)


def test_bf16_stays_bf16() -> None:
    ours = layer(64, 48, 4, False)
    ours.__class__ = PackedLinear
    assert ours(mx.ones((2, 9, 64), mx.bfloat16)).dtype == mx.bfloat16


def test_unpacked_matrices_are_not_kept() -> None:
    """Twelve matrices of a megabyte each when unpacked: a few are on their way, never all."""
    layers = [layer(512, 512, 4, False) for _ in range(12)]
    for one in layers:
        one.__class__ = PackedLinear
    x = mx.random.normal((8, 512))
    mx.eval(x, *(one.parameters() for one in layers))

    def loss(x: mx.array) -> mx.array:
        for one in layers:
            x = one(x)
        return x.sum()

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.value_and_grad(loss)(x))
    assert mx.get_peak_memory() - before < 6 * 512 * 512 * 4


def test_a_converted_model_has_them(tiny_medgemma: object, tmp_path: object) -> None:
    from mlx_medlora.gemma.convert import convert

    convert(tiny_medgemma, tmp_path / "packed", bits=4, group_size=32)  # type: ignore[arg-type, operator]
    model = load_base(tmp_path / "packed")  # type: ignore[operator]
    kinds = {type(layer.mlp.down_proj) for layer in model.text.layers}
    assert kinds == {PackedLinear}
