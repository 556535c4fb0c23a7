"""Settings of short runs, and what they wrote."""

from __future__ import annotations

from pathlib import Path

from mlx_medlora.training.settings import TrainSettings

SETTINGS = TrainSettings(epochs=2, batch_size=2, lr=1e-3, rank=2, warmup=0.0)


def weights(adapter: Path) -> bytes:
    return (adapter / "adapters.safetensors").read_bytes()
