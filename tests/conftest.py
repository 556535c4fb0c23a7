"""Fixtures that every room's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_medlora.gemma  # noqa: F401  (loads the fast BLAS before anything imports mlx)
from mlx_medlora import privacy
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig
from mlx_medlora.gemma.model import Gemma3

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The directory of real images, tokenizer and configurations that lies beside the project."""
    directory = ROOT.parent / "shared"
    if not directory.is_dir():
        pytest.skip("needs ../shared (real images, tokenizer and configurations), which is absent")
    return directory


@pytest.fixture(autouse=True)
def own_features(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a store of image features of its own: shared datasets stay as they are."""
    store = tmp_path_factory.mktemp("features") / "store"
    monkeypatch.setattr(FeatureSettings, "place", lambda self, data: self.directory or store)


@pytest.fixture(autouse=True)
def fresh_privacy() -> Iterator[None]:
    """What one test read or showed of cases is nothing to the next."""
    privacy.forget()
    yield
    privacy.forget()


@pytest.fixture(scope="session")
def tiny_medgemma() -> Path:
    """The embedded default model."""
    return ROOT / "mlx_medlora" / "assets" / "tiny-medgemma"


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """A geometry small enough for many tests: 7 layers (one global), 4 soft tokens, a window of 24."""
    kinds = ("sliding_attention",) * 5 + ("full_attention", "sliding_attention")
    text = TextConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=24,
        layer_types=kinds,
    )
    vision = VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=7,
    )
    return ModelConfig(
        text=text,
        vision=vision,
        mm_tokens_per_image=4,
        image_token_id=300,
        boi_token_id=301,
        eoi_token_id=302,
        dtype="float32",
    )


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> Gemma3:
    """A seeded random model of `tiny_config`."""
    import mlx.core as mx

    mx.random.seed(7)
    model = Gemma3(tiny_config)
    model.eval()
    return model


@pytest.fixture(scope="session")
def phantom_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of 40 small phantoms: 24 to train on, 8 to validate, 8 to test."""
    from mlx_medlora.cases.prepare import prepare_phantoms

    directory = tmp_path_factory.mktemp("phantoms") / "data"
    prepare_phantoms(40, directory, val=8, test=8, size=64)
    return directory
