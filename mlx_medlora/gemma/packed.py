"""Linear layers whose matrix is packed into 2 to 8 bits.

On the GPU MLX multiplies with the packed words. Its CPU backend does that one element at a time: 24 times
slower, at 300 rows of 4B's MLP, than to unpack the matrix, multiply with BLAS and let the matrix go again.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.recompute import recomputed

_ROWS = 8  # fewer rows than this are quicker with the packed words


class PackedLinear(nn.QuantizedLinear):
    """A `QuantizedLinear` that unpacks its matrix for the length of one product, on the CPU."""

    @classmethod
    def adopt(cls, model: nn.Module) -> None:
        """Make every quantised linear layer of `model` one of these, in place."""
        for module in model.modules():
            if type(module) is nn.QuantizedLinear:
                module.__class__ = cls

    def __call__(self, x: mx.array) -> mx.array:
        """(..., in) -> (..., out)."""
        on_cpu = mx.default_device() == mx.Device(mx.cpu)
        if not on_cpu or x.size // x.shape[-1] < _ROWS:
            found: mx.array = super().__call__(x)
            return found
        y = recomputed(lambda x: (self._unpacked_product(x),))(x)[0]
        return y + self.bias if "bias" in self else y

    def _unpacked_product(self, x: mx.array) -> mx.array:
        # not before x is there: MLX would unpack many layers' matrices ahead
        packed: list[mx.array] = [self.weight, self.scales, self["biases"]]
        weight, scales, biases = mx.depends(packed, [x])
        matrix = mx.dequantize(weight, scales, biases, self.group_size, self.bits)  # (out, in)
        return (x.astype(mx.float32) @ matrix.astype(mx.float32).T).astype(x.dtype)
