"""One optimiser loop for both stages."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
from mlx import nn

from mlx_medlora.training.optimizer import adamw, clip


def fit(
    model: nn.Module,
    loss: Callable[..., mx.array],
    batches: Iterator[Any],
    count: int,
    rate: float,
    check: Callable[[], str],
    every: int = 500,
) -> None:
    """Take `count` AdamW steps: warm-up over the first 5 %, then down to a tenth of `rate` on a cosine."""
    optimizer = adamw(0.01)
    value_and_grad = nn.value_and_grad(model, loss)
    total, start = 0.0, time.perf_counter()
    for step in range(count):
        value, gradients = value_and_grad(next(batches))
        gradients, _ = clip(gradients, 1.0)
        optimizer.learning_rate = rate * shape(step, count)
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state, value)
        total += float(value)
        if (step + 1) % every == 0 or step + 1 == count:
            seconds = time.perf_counter() - start
            print(
                f"  step {step + 1}/{count}, loss {total / every:.4f}, {check()}, {seconds:.0f} s", flush=True
            )
            total = 0.0


def shape(step: int, count: int) -> float:
    """The rate's share of its peak at a step (0-based)."""
    import math

    warmup = max(1, count // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / max(1, count - warmup)))
