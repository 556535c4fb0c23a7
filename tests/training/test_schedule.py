from __future__ import annotations

import pytest

from mlx_medlora.training.schedule import learning_rate, warmup_steps
from mlx_medlora.training.settings import Schedule

torch = pytest.importorskip("torch", reason="the extra `parity` is not installed")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize(("total", "share"), [(40, 0.03), (100, 0.1), (7, 0.5), (5, 0.0), (1, 0.03)])
def test_it_is_transformers(schedule: Schedule, total: int, share: float) -> None:
    from transformers import TrainingArguments, get_scheduler

    name = "constant_with_warmup" if schedule == "constant" else schedule
    warmup = warmup_steps(total, share)
    assert warmup == TrainingArguments(warmup_steps=share, report_to=[]).get_warmup_steps(total)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2e-4)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate(step, total, warmup, 2e-4, schedule) == pytest.approx(expected, rel=1e-12)
        optimizer.step()
        scheduler.step()
