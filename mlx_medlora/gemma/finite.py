"""Whether weights hold NaN or infinity, told by their bits."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

# IEEE 754: all bits of the exponent set mean NaN or infinity. (signed view, unsigned view, that exponent)
_FORMS = {
    mx.bfloat16: (mx.int16, mx.uint16, 0x7F80),
    mx.float16: (mx.int16, mx.uint16, 0x7C00),
    mx.float32: (mx.int32, mx.uint32, 0x7F80_0000),
}


def is_finite(array: mx.array) -> bool:
    """True where no value of `array` is NaN or infinity; integers have neither.

    Without the sign the bits of floats are in the order of their magnitudes, so the largest positive one is
    the largest signed integer, and the largest negative one the largest unsigned. A sum would tell too, but
    overflows in fp16, and takes ten times as long on the CPU.
    """
    if array.dtype not in _FORMS or array.size == 0:
        return True
    signed, unsigned, exponent = _FORMS[array.dtype]
    sign = 1 << (8 * array.dtype.size - 1)
    return _largest(array, signed) < exponent and _largest(array, unsigned) < sign | exponent


def _largest(array: mx.array, integers: mx.Dtype) -> int:
    bits = array.view(integers)
    if mx.default_device().type == mx.gpu:
        bits = mx.max(bits)
    return int(np.asarray(bits).max())  # numpy's is vectorised, MLX's on the CPU is not
