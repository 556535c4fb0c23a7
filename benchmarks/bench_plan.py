"""Claim: the peak memory that `plan` predicts is within 10 % of what a training step takes.

Real steps on random models, one setting in a process of its own: mx.get_peak_memory against the prediction.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SETTINGS: list[dict[str, Any]] = [
    {},
    {"layers": 16},
    {"width": 1024, "mlp": 4096},
    {"heads": 8, "head_dim": 128, "length": 384},
    {"batch_size": 8},
    {"length": 640, "batch_size": 2},
    {"rank": 128, "target": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")},
    {"dropout": 0.0},
    {"answer": 48, "vocabulary": 65_536},
    {"vocabulary": 131_072, "width": 512},
    {"bits": 4},
    {"accumulate": 2, "rank": 256},
    {"dtype": "bfloat16", "layers": 6, "width": 256, "mlp": 1024, "length": 96},
    {"length": 1024, "batch_size": 2, "heads": 8},
    {"layers": 20, "width": 384, "batch_size": 6, "length": 100, "target": ("v_proj", "up_proj")},
    {"grad_checkpoint": "on", "layers": 16},
    {"grad_checkpoint": "on", "length": 768},
    {"grad_checkpoint": "on", "target": ("q_proj", "down_proj")},
    {"grad_checkpoint": "on", "length": 512, "width": 1024, "mlp": 4096},
    {"grad_checkpoint": "on", "length": 640, "batch_size": 2, "heads": 8},
    {"grad_checkpoint": "on", "dropout": 0.0, "batch_size": 8},
    {"grad_checkpoint": "on", "bits": 4, "target": ("q_proj", "gate_proj", "up_proj")},
    {"grad_checkpoint": "on", "dtype": "bfloat16", "layers": 6, "width": 256, "mlp": 1024, "length": 96},
    {"grad_checkpoint": "on", "layers": 12, "width": 768, "heads": 12, "groups": 4, "length": 300},
]
GEOMETRY = {
    "layers": 8,
    "width": 512,
    "mlp": 2048,
    "heads": 4,
    "groups": 2,
    "head_dim": 64,
    "vocabulary": 8192,
    "length": 192,
    "answer": 4,
    "bits": None,
    "dtype": "float32",
}


def measure(given: dict[str, Any]) -> tuple[int, int]:
    """(predicted, measured) peak of a step, in bytes."""
    import mlx_medlora.gemma  # noqa: F401  (loads the fast BLAS before mlx)

    # isort: split
    import mlx.core as mx
    import numpy as np
    from mlx import nn

    from mlx_medlora.gemma.config import ModelConfig, Quantization, TextConfig
    from mlx_medlora.gemma.model import build
    from mlx_medlora.lora.layers import attach
    from mlx_medlora.training.batches import collate
    from mlx_medlora.training.buckets import costliest
    from mlx_medlora.training.examples import Example
    from mlx_medlora.training.features import FeatureCache
    from mlx_medlora.training.memory import predict_memory
    from mlx_medlora.training.settings import TrainSettings
    from mlx_medlora.training.shapes import adapter_shape, row_shapes
    from mlx_medlora.training.step import Stepper

    size = {name: given.get(name, value) for name, value in GEOMETRY.items()}
    settings = TrainSettings(**{k: v for k, v in given.items() if k not in GEOMETRY})
    text = TextConfig(
        vocab_size=size["vocabulary"],
        hidden_size=size["width"],
        intermediate_size=size["mlp"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["groups"],
        head_dim=size["head_dim"],
        sliding_window=128,
        layer_types=("sliding_attention",) * size["layers"],
    )
    packed = None if size["bits"] is None else Quantization(bits=size["bits"])
    config = ModelConfig(text=text, image_token_id=9, dtype=size["dtype"], quantization=packed)
    model = build(config)
    model.set_dtype(mx.float32 if config.dtype == "float32" else mx.bfloat16)
    if packed is not None:
        nn.quantize(model, packed.group_size, packed.bits)
    attach(model, settings)
    mx.eval(model.parameters())
    model.train()
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 1000, (settings.batch_size, size["length"])).astype(np.int32)
    supervised = np.arange(size["length"]) >= size["length"] - size["answer"]
    rows = [Example(row, supervised, (), str(i), str(i)) for i, row in enumerate(ids)]
    shape = costliest(row_shapes(rows), settings.batch_size)
    on = settings.grad_checkpoint == "on"
    predicted = predict_memory(config, adapter_shape(config, settings), settings, shape, checkpointing=on)
    stepper = Stepper(model, settings, total=10)
    mx.eval(stepper.optimizer.state)
    batch = collate(rows, FeatureCache(), config)
    peaks = []
    for step in range(3):
        mx.reset_peak_memory()
        stepper.update([batch] * settings.accumulate, step, epoch=1)
        peaks.append(mx.get_peak_memory())
    return predicted.step_peak, max(peaks[1:])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
        return
    print(f"{'setting':72s} {'predicted':>9s} {'measured':>9s} ratio   (MB)")
    ratios = []
    for given in SETTINGS:
        command = [sys.executable, str(Path(__file__)), json.dumps(given)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        predicted, measured = json.loads(done.stdout)
        ratios.append(predicted / measured)
        name = ", ".join(f"{k} {v}" for k, v in given.items()).replace("_proj", "") or "8 layers of 512"
        print(f"{name[:72]:72s} {predicted / 1e6:9.1f} {measured / 1e6:9.1f} {ratios[-1]:.3f}", flush=True)
    print(f"ratio {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} settings")


if __name__ == "__main__":
    main()
