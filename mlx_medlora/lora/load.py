"""From a name to a model that answers, with its adapter and its processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.hub import resolve
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.formats import load_any


def load_model(
    path_or_hub_id: str | Path, adapter: str | Path | None = None, dtype: mx.Dtype | None = None
) -> Base:
    """Load a model from a directory, the hub or the package (`tiny-medgemma`), ready to answer.

    `adapter` is a directory that training, PEFT, mlx-lm or mlx-vlm wrote; `dtype` (float32 or bfloat16)
    casts the base's tensors that are not quantised. Raises InputError where model or adapter are absent,
    damaged or do not fit.
    """
    directory = resolve(path_or_hub_id)
    return _load(directory, adapter, dtype)


def load(
    path_or_hub_id: str | Path, adapter: str | Path | None = None, dtype: mx.Dtype | None = None
) -> tuple[Base, Any]:
    """As `load_model`, with the processor beside it: (model, processor).

    The processor is transformers' `Gemma3Processor`, or the tokenizer alone for text-only models.
    """
    from mlx_medlora.gemma.processor import load_processor

    directory = resolve(path_or_hub_id)
    processor = load_processor(directory)  # first: it fails sooner than gigabytes load
    return _load(directory, adapter, dtype), processor


def _load(directory: Path, adapter: str | Path | None, dtype: mx.Dtype | None) -> Base:
    model: Base = load_base(directory, dtype)
    if adapter is not None:
        mine = fingerprint(directory, model.config)
        load_any(model, Path(adapter), fingerprint=mine, source=source_fingerprint(directory))
    model.eval()
    return model
