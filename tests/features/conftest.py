"""A small random model, a stand-in for its processor, and images of noise."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from stores import Open, Pixels

from mlx_medlora.features.identity import Identity, identify
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.features.store import Store
from mlx_medlora.gemma.model import Gemma3


@pytest.fixture
def encoder() -> Pixels:
    return Pixels()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Eight different images."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "images" / f"{index}.png" for index in range(8)]
    paths[0].parent.mkdir()
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def identity(tiny_model: Gemma3, encoder: Pixels) -> Identity:
    return identify(tiny_model, encoder)


@pytest.fixture
def said() -> list[str]:
    """What was told to the user."""
    return []


@pytest.fixture
def opened(tiny_model: Gemma3, encoder: Pixels, identity: Identity, root: Path, said: list[str]) -> Open:
    """opened(limit=...): the store opened anew, as another run would."""

    def make(limit: int = 10**9) -> ImageFeatures:
        store = Store(root, identity, limit, said.append)
        return ImageFeatures(tiny_model, encoder, store, tell=said.append)

    return make


@pytest.fixture
def plain(tiny_model: Gemma3, encoder: Pixels, files: list[Path]) -> dict[Path, bytes]:
    """The bits of every image's features, without any store."""
    found = ImageFeatures(tiny_model, encoder)
    return {file: np.array(found[file]).tobytes() for file in files}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each pass of the tower held."""
    held: list[int] = []
    tower = Gemma3.image_features

    def count(self: Gemma3, pixels: mx.array) -> mx.array:
        held.append(pixels.shape[0])
        return tower(self, pixels)

    monkeypatch.setattr(Gemma3, "image_features", count)
    return held
