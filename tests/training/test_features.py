from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, Gemma3
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache


class Pixels:
    """Stands in for the processor: plain scaling, at the small model's size."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.vision is not None
        self.side = config.vision.image_size

    def pixels(self, images: list[Image.Image]) -> np.ndarray:
        resized = [np.asarray(image.resize((self.side, self.side))) for image in images]
        return np.stack(resized).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return paths


def example(*images: Path) -> Example:
    return Example(np.array([2, 3]), np.array([False, True]), images, "id", "train.jsonl:1")


def test_each_distinct_image_is_seen_once(
    tiny_model: Base, tiny_config: ModelConfig, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [example(files[0], files[1]), example(), example(files[1]), example(*files)]
    passes: list[int] = []
    tower = Gemma3.image_features

    def count(self: Gemma3, pixels: mx.array) -> mx.array:
        passes.append(pixels.shape[0])
        return tower(self, pixels)

    monkeypatch.setattr(Gemma3, "image_features", count)
    said: list[tuple[int, int]] = []
    cache = FeatureCache.for_examples(
        rows, tiny_model, Pixels(tiny_config), lambda done, total: said.append((done, total))
    )
    assert passes == [1] * len(files)
    assert said[-1] == (6, 6)
    assert set(cache.features) == set(files)


def test_features_are_the_towers(tiny_model: Base, tiny_config: ModelConfig, files: list[Path]) -> None:
    encoder = Pixels(tiny_config)
    cache = FeatureCache.for_examples([example(*files)], tiny_model, encoder)
    stacked = cache.stack([files[4], files[1], files[4]])
    assert stacked.shape == (3, tiny_config.mm_tokens_per_image, tiny_config.text.hidden_size)
    for index, path in enumerate([files[4], files[1], files[4]]):
        alone = tiny_model.image_features(mx.array(encoder.pixels([Image.open(path)])))[0]
        assert mx.array_equal(stacked[index], alone)


def test_no_images_no_pass(tiny_model: Base, tiny_config: ModelConfig) -> None:
    assert len(FeatureCache.for_examples([example()], tiny_model, Pixels(tiny_config)).features) == 0
