"""Random examples on a small random model, without processor and files; and a small dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, Gemma3, build
from mlx_medlora.gemma.text import TextStack
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.settings import TrainSettings

IMAGES = (Path("one.png"), Path("two.png"), Path("three.png"))
ANSWERS = ("CORRECT - Treatment matches imaging findings", "ERROR - Surgery for a normal film")
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


def row(index: int, image: str | None) -> dict[str, Any]:
    case = {
        "id": f"case{index}",
        "instruction": "You are trained to detect clinical errors.",
        "input": f"**Patient Information:** Age {40 + index}. The film is normal. Rest.",
        "output": ANSWERS[index % 2],
        "metadata": {"modality": "xray"},
    }
    return case if image is None else {**case, "image_path": f"images/{image}", "image_file": image}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five training rows (two share an image, two have none) and two for validation."""
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)).save(root / "images" / name)
    splits = {"train": ["a.png", None, "b.png", "a.png", None], "val": ["c.png", None]}
    for split, images in splits.items():
        rows = [row(index + 10 * (split == "val"), image) for index, image in enumerate(images)]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return root


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of a row through the frozen layers alone."""
    passes: list[int] = []
    real = TextStack.below

    def count(self: TextStack, *given: Any) -> mx.array:
        if given[0].shape[1] > 1:  # of one token: asked for its dtype, and never computed
            passes.append(1)
        return real(self, *given)

    monkeypatch.setattr(TextStack, "below", count)
    return passes


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of the vision tower."""
    passes: list[int] = []
    real = Gemma3.image_features

    def count(self: Gemma3, pixels: mx.array) -> mx.array:
        passes.append(1)
        return real(self, pixels)

    monkeypatch.setattr(Gemma3, "image_features", count)
    return passes
