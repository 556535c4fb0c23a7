"""How fast a machine multiplies matrices: the rate that turns operations into time."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.packed import PackedLinear

STEP_SHARE = 0.5  # of the matmul rate that a whole step reaches; docs/plan.md says where this is from
_ROWS, _WIDTH = (8, 512), 2048  # few rows first: bf16 and packed weights are very slow on some CPUs
_SLOW = 0.1  # seconds that few rows may take before more are tried


def measured_rate(config: ModelConfig) -> float:
    """FLOP/s of a layer's product, in the model's dtype and packed as the model's are, in a second or two."""
    dtype = mx.float32 if config.dtype == "float32" else mx.bfloat16
    layer: nn.Module = nn.Linear(_WIDTH, _WIDTH, bias=False)
    layer.set_dtype(dtype)
    packed = config.quantization
    if packed is not None:
        layer = nn.QuantizedLinear.from_linear(layer, packed.group_size, packed.bits)
        PackedLinear.adopt(layer)
    rate = 0.0
    for rows in _ROWS:
        x = mx.random.normal((rows, _WIDTH)).astype(dtype)
        mx.eval(x, layer.parameters(), layer(x))
        seconds = min(_timed(layer, x) for _ in range(3))
        rate = 2 * rows * _WIDTH**2 / seconds
        if seconds > _SLOW:
            break
    return rate


def _timed(product: Callable[[mx.array], mx.array], x: mx.array) -> float:
    start = perf_counter()
    mx.eval(product(x))
    return perf_counter() - start
