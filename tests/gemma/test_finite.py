import hypothesis.extra.numpy as arrays
import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_medlora.gemma.finite import is_finite

BITS = {mx.bfloat16: np.uint16, mx.float16: np.uint16, mx.float32: np.uint32}


def of_bits(bits: np.ndarray, dtype: mx.Dtype) -> mx.array:
    return mx.array(bits).view(dtype)


def by_numpy(bits: np.ndarray, dtype: mx.Dtype) -> bool:
    if dtype == mx.bfloat16:
        values = (bits.astype(np.uint32) << 16).view(np.float32)
    else:
        values = bits.view(np.float16 if dtype == mx.float16 else np.float32)
    return bool(np.isfinite(values).all())


@pytest.mark.parametrize("dtype", BITS)
@given(data=st.data())
def test_it_agrees_with_numpy_on_any_bits(dtype: mx.Dtype, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=1, max_dims=2, max_side=6))
    bits = data.draw(arrays.arrays(BITS[dtype], shape))
    assert is_finite(of_bits(bits, dtype)) == by_numpy(bits, dtype)


@pytest.mark.parametrize("dtype", BITS)
def test_the_last_finite_numbers_and_the_first_beyond(dtype: mx.Dtype) -> None:
    largest = mx.finfo(dtype).max
    for value in (0.0, -0.0, largest, -largest):
        assert is_finite(mx.array([1.0, value]).astype(dtype))
    for value in (float("nan"), float("inf"), -float("inf")):
        assert not is_finite(mx.array([1.0, value, -1.0]).astype(dtype))
    negative_nan = np.array([1, -1], np.int16 if dtype.size == 2 else np.int32)  # all bits set
    assert not is_finite(mx.array(negative_nan).view(dtype))
    assert not is_finite(mx.array([[1.0, 2.0], [float("nan"), 3.0]]).astype(dtype).T)
    assert is_finite(mx.zeros((0, 3), dtype))


def test_a_sum_that_overflows_is_no_fault() -> None:
    gains = mx.full((2560,), 100.0, mx.float16)
    assert mx.isinf(mx.sum(gains)).item()
    assert is_finite(gains)


def test_integers_have_neither() -> None:
    assert is_finite(mx.array([2**32 - 1], mx.uint32))
