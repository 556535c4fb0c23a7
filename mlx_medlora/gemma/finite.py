"""Whether weights hold NaN or infinity, told by their bits, and what to say where a cast made it."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_medlora.errors import InputError

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
    if mx.default_device().type == mx.gpu:
        largest = [int(np.asarray(mx.max(array.view(integers)))) for integers in (signed, unsigned)]
    else:
        bits = np.asarray(array.view(signed))  # numpy's maximum is vectorised, MLX's on the CPU is not
        largest = [int(bits.max()), int(bits.view(f"u{array.dtype.size}").max())]
    return largest[0] < exponent and largest[1] < sign | exponent


def too_large(tensor: str, dtype: mx.Dtype, path: Path, hint: str) -> InputError:
    """The error for a tensor whose values are numbers, and infinite once they are cast to `dtype`."""
    return InputError(f"a value of {tensor} is too large for {dtype_name(dtype)}", path=path, hint=hint)


def dtype_name(dtype: mx.Dtype) -> str:
    """`bfloat16` for mx.bfloat16, as settings call it."""
    return str(dtype).removeprefix("mlx.core.")
