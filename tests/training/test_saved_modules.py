"""Embedding and head trained whole, together and alone, on bases of every precision."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_medlora.gemma.convert import convert
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.saved import matrix
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
IDS = mx.array([[2, 5, 9, 12]])


@pytest.fixture(scope="module", params=["float32", "bfloat16", "4 bits"])
def base(
    request: pytest.FixtureRequest, tiny_medgemma: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The embedded model, which is fp32, converted."""
    directory = tmp_path_factory.mktemp("bases") / "base"
    packed = request.param == "4 bits"
    dtype = "float32" if packed else request.param
    convert(tiny_medgemma, directory, bits=4 if packed else None, dtype=dtype)
    return directory


@pytest.mark.parametrize("kinds", [("lm_head",), ("embed_tokens",), ("lm_head", "embed_tokens")])
def test_each_module_is_trained_and_the_other_is_the_base_s(
    kinds: tuple[str, ...], base: Path, data: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(epochs=1, batch_size=4, lr=1e-3, rank=2, warmup=0.0, save_modules=kinds)
    run_training(base, data, tmp_path / "adapter", settings)
    saved = load_file(str(tmp_path / "adapter" / "adapters.safetensors"))
    own = np.array(matrix(load_model(base).text.embed_tokens).astype(mx.float32))
    names = {"lm_head": HEAD, "embed_tokens": EMBEDDING}
    assert {name for name in saved if name in (HEAD, EMBEDDING)} == {names[kind] for kind in kinds}
    for kind in kinds:
        assert not np.array_equal(saved[names[kind]], own)
    adapted = load_model(base, tmp_path / "adapter")
    for kind, module in (("lm_head", adapted.speaker.lm_head), ("embed_tokens", adapted.text.embed_tokens)):
        if kind not in kinds:
            kept = module if kind == "embed_tokens" else module.embedding
            assert np.array_equal(np.array(matrix(kept).astype(mx.float32)), own)
    assert mx.all(mx.isfinite(adapted(IDS))).item()
