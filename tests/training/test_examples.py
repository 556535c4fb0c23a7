from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.examples import Example, build_examples


@dataclass
class Encoded:
    ids: np.ndarray
    supervised: np.ndarray


class Letters:
    """Stands in for the processor: a letter is a token, an image its soft tokens; `lose` drops some."""

    def __init__(self, config: ModelConfig, lose: int = 0) -> None:
        self.config, self.soft = config, config.mm_tokens_per_image - lose

    def encode(self, turns: list[dict[str, Any]], images: list[Image.Image], *, with_answer: bool) -> Encoded:
        assert with_answer
        ids, supervised = [self.config.bos_token_id], [False]
        for turn in turns:
            for part in turn["content"]:
                soft = [self.config.image_token_id] * self.soft
                new = soft if part["type"] == "image" else [ord(letter) for letter in part["text"]]
                ids += new
                supervised += [turn["role"] == "assistant"] * len(new)
        return Encoded(np.array(ids, dtype=np.int32), np.array(supervised))


@pytest.fixture
def short(tiny_config: ModelConfig) -> ModelConfig:
    """The small model with a context of 128 tokens."""
    text = tiny_config.text.model_copy(update={"max_position_embeddings": 128})
    return tiny_config.model_copy(update={"text": text})


def dataset(directory: Path, *rows: dict[str, Any]) -> Dataset:
    (directory / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(directory / "images" / name)
    shared = {"instruction": "Check.", "output": "ERROR - no", "metadata": {"modality": "xray"}}
    made = [{"id": f"case{i}", "input": "A finding.", **shared, **row} for i, row in enumerate(rows)]
    (directory / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    return Dataset.open(directory)


def built(data: Dataset, config: ModelConfig, max_length: int | None = None, lose: int = 0) -> list[Example]:
    return build_examples(data.cases("train"), data, Letters(config, lose), config, max_length)


def test_images_text_and_place(tmp_path: Path, tiny_config: ModelConfig) -> None:
    data = dataset(
        tmp_path, {}, {"image_path": "images/a.png"}, {"image_path": ["images/b.png", "images/a.png"]}
    )
    examples = built(data, tiny_config)
    names = [[image.name for image in example.images] for example in examples]
    assert names == [[], ["a.png"], ["b.png", "a.png"]]
    assert [example.where for example in examples] == [f"train.jsonl:{line}" for line in (1, 2, 3)]
    assert [example.targets for example in examples] == [len("ERROR - no")] * 3


def test_a_row_longer_than_the_context(tmp_path: Path, short: ModelConfig) -> None:
    data = dataset(tmp_path, {}, {"input": "x" * 128})
    with pytest.raises(InputError, match=r"case 'case1' takes 145 tokens; the limit is 128") as caught:
        built(data, short)
    assert str(caught.value).startswith(f"{tmp_path / 'train.jsonl'}:2: ")


def test_max_length_is_the_lower_limit(tmp_path: Path, tiny_config: ModelConfig) -> None:
    data = dataset(tmp_path, {})
    length = len(built(data, tiny_config)[0])
    assert len(built(data, tiny_config, max_length=length)) == 1
    with pytest.raises(InputError, match=f"takes {length} tokens; the limit is {length - 1}"):
        built(data, tiny_config, max_length=length - 1)


def test_max_length_does_not_lift_the_models_limit(tmp_path: Path, short: ModelConfig) -> None:
    data = dataset(tmp_path, {"input": "x" * 128})
    with pytest.raises(InputError, match="the limit is 128"):
        built(data, short, max_length=10**6)


def test_what_cannot_be_tokenised_is_named(tmp_path: Path, tiny_config: ModelConfig) -> None:
    class Refuses(Letters):
        def encode(self, *_: Any, **__: Any) -> Encoded:
            raise InputError("the text holds a control token", hint="Remove it.")

    data = dataset(tmp_path, {})
    with pytest.raises(InputError, match="control token") as caught:
        build_examples(data.cases("train"), data, Refuses(tiny_config), tiny_config, None)
    assert str(caught.value).startswith(f"{tmp_path / 'train.jsonl'}:1: case 'case0': the text")
    assert caught.value.hint == "Remove it."


def test_cut_image_tokens(tmp_path: Path, tiny_config: ModelConfig) -> None:
    data = dataset(tmp_path, {}, {}, {"image_path": ["images/a.png", "images/b.png"]})
    with pytest.raises(InputError, match=r"has 6 image soft tokens, 8 for its 2 image\(s\)") as caught:
        built(data, tiny_config, lose=1)
    assert str(caught.value).startswith(f"{tmp_path / 'train.jsonl'}:3: ")


def test_an_image_before_a_text_only_model(tmp_path: Path, tiny_config: ModelConfig) -> None:
    text_only = tiny_config.model_copy(update={"vision": None})
    data = dataset(tmp_path, {}, {"image_path": "images/a.png"})
    with pytest.raises(InputError, match="text-only model") as caught:
        built(data, text_only)
    assert str(caught.value).startswith(f"{tmp_path / 'train.jsonl'}:2: ")


def test_a_damaged_image_is_named(tmp_path: Path, tiny_config: ModelConfig) -> None:
    data = dataset(tmp_path, {"image_path": "images/a.png"})
    (tmp_path / "images" / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png: .*empty"):
        built(data, tiny_config)
