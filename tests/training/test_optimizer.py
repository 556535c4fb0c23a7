from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.training import optimizer

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")

RATES = (0.0, 1e-3, 2e-3, 5e-4, 5e-4)


def gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    size = 10.0 ** (1 - step)  # the first are clipped, the last are not
    return {name: rng.normal(0, size, (4, 3)).astype(np.float32) for name in ("a", "b")}


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("largest", [0.0, 1.0])
def test_steps_are_torchs(decay: float, largest: float) -> None:
    start = {name: np.random.default_rng(9).normal(size=(4, 3)).astype(np.float32) for name in ("a", "b")}
    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
    torch_adamw = torch.optim.AdamW(theirs.values(), lr=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    ours = {name: mx.array(value) for name, value in start.items()}
    adamw = optimizer.adamw(decay)
    for step, rate in enumerate(RATES):
        found = gradients(step)
        for name, tensor in theirs.items():
            tensor.grad = torch.tensor(found[name])
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), largest if largest else float("inf"))
        torch_adamw.param_groups[0]["lr"] = rate
        torch_adamw.step()
        clipped, our_norm = optimizer.clip({name: mx.array(g) for name, g in found.items()}, largest)
        adamw.learning_rate = rate
        ours = adamw.apply_gradients(clipped, ours)
        assert float(our_norm) == pytest.approx(float(norm), rel=1e-6)
        for name in ours:
            np.testing.assert_allclose(np.array(ours[name]), theirs[name].detach(), rtol=2e-6, atol=2e-7)
