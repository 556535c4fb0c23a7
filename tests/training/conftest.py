"""Random examples on a small random model: no processor, no files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.settings import TrainSettings

IMAGES = (Path("one.png"), Path("two.png"), Path("three.png"))
MakeExample = Callable[..., Example]


@pytest.fixture
def make_example(tiny_config: ModelConfig) -> MakeExample:
    """example(name, prompt, answer, images): a row of that many random tokens, the answer supervised."""

    def make(name: str, prompt: int = 9, answer: int = 3, images: int = 0) -> Example:
        rng = np.random.default_rng([ord(letter) for letter in name])
        soft = [tiny_config.image_token_id] * tiny_config.mm_tokens_per_image
        block = [tiny_config.boi_token_id, *soft, tiny_config.eoi_token_id]
        text = [int(token) for token in rng.integers(10, 250, prompt + answer)]
        ids = [2, *block * images, *text]
        supervised = np.arange(len(ids)) >= len(ids) - answer
        return Example(
            np.array(ids, dtype=np.int32), supervised, IMAGES[:images], name, f"train.jsonl:{name}"
        )

    return make


@pytest.fixture
def mixed(make_example: MakeExample) -> list[Example]:
    """Four rows of different lengths: text only, one image, two images, and a long answer."""
    return [
        make_example("text"),
        make_example("one", images=1, answer=5),
        make_example("two", images=2, answer=2),
        make_example("long", prompt=14, answer=11),
    ]


@pytest.fixture
def features(tiny_config: ModelConfig) -> FeatureCache:
    """Random features for three images."""
    shape = (tiny_config.mm_tokens_per_image, tiny_config.text.hidden_size)
    return FeatureCache(
        {image: mx.random.normal(shape, key=mx.random.key(i)) for i, image in enumerate(IMAGES)}
    )


@pytest.fixture
def adapted(tiny_config: ModelConfig) -> Callable[[TrainSettings], Base]:
    """A function that gives a fresh model, always the same, with the adapter that settings describe."""

    def make(settings: TrainSettings) -> Base:
        mx.random.seed(11)
        model = build(tiny_config)
        attach(model, settings.lora, seed=settings.seed)
        return model

    return make
