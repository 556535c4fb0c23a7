"""Our logits against transformers', in fp32, relative to the largest logit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.gemma.load import load_base

torch = pytest.importorskip("torch")

SOFT, BOI, EOI, PAD = 300, 301, 302, 0
TOLERANCE = 3e-6
IMAGE = [BOI, *[SOFT] * 4, EOI]
TEXT = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 7,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 24,
}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "three heads, one key/value head": {
        "hidden_size": 60,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    },
    "query_pre_attn_scalar unlike head_dim": {"query_pre_attn_scalar": 21},
    "global RoPE factor 8": {
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        }
    },
}


def words(count: int, seed: int = 0) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(5, 290, count)]


# name: rows (padded to the longest, on the side given)
ROWS: dict[str, tuple[str, list[list[int]]]] = {
    "text only": ("right", [[2, *words(15)]]),
    "one image": ("right", [[2, *words(3), *IMAGE, *words(9, 1)]]),
    "two images": ("right", [[2, *IMAGE, *words(4), *IMAGE, *words(6, 1)]]),
    "two images without text between": ("right", [[2, *IMAGE, *IMAGE, *words(6, 1)]]),
    "right padding": (
        "right",
        [[2, *IMAGE, *words(8)], [2, *words(3, 2), *IMAGE, *words(9)], [2, *words(5)]],
    ),
    "left padding": ("left", [[2, *IMAGE, *words(8)], [2, *words(3, 2), *IMAGE, *words(9)], [2, *words(5)]]),
    "longer than the window": ("right", [[2, *words(3), *IMAGE, *words(70)]]),
    "a block across the window's edge": ("right", [[2, *words(18), *IMAGE, *words(22), *IMAGE, *words(30)]]),
    "long and left padded": ("left", [[2, *words(40), *IMAGE, *words(20)], [2, *IMAGE, *words(28)]]),
}


def padded(rows: list[list[int]], side: str) -> tuple[np.ndarray, np.ndarray]:
    """ids and attention mask, (B, L) each."""
    length = max(map(len, rows))
    ids, mask = np.full((len(rows), length), PAD), np.zeros((len(rows), length), np.int64)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(length - len(row), None)
        ids[index, place], mask[index, place] = row, 1
    return ids, mask


def random_torch(model: Any) -> Any:
    """Give every parameter a size at which each part of the model matters."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if "norm" in name else 0.12
            parameter.copy_(torch.randn_like(parameter) * scale)
    return model.eval()


def multimodal(text: dict[str, Any]) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=TEXT | text,
        vision_config=vision | {"image_size": 28, "patch_size": 7},
        mm_tokens_per_image=4,
        image_token_id=SOFT,
        boi_token_id=BOI,
        eoi_token_id=EOI,
        attn_implementation="eager",
    )
    return random_torch(Gemma3ForConditionalGeneration(config))


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    reference = multimodal(GEOMETRIES[request.param])
    directory = tmp_path_factory.mktemp("checkpoint")
    reference.save_pretrained(directory)
    return reference, load_base(directory)


def relative(ours: np.ndarray, theirs: np.ndarray, mask: np.ndarray) -> float:
    kept = mask.astype(bool)
    return float(np.abs(ours - theirs)[kept].max() / np.abs(theirs[kept]).max())


@pytest.mark.parametrize("name", list(ROWS))
def test_logits_equal_transformers(pair: tuple[Any, Any], name: str) -> None:
    reference, model = pair
    side, rows = ROWS[name]
    ids, mask = padded(rows, side)
    images = int((ids == SOFT).sum()) // 4
    pixels = (
        np.random.default_rng(5).uniform(-1, 1, (images, 3, 28, 28)).astype(np.float32) if images else None
    )
    with torch.no_grad():
        theirs = reference(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            token_type_ids=torch.tensor((ids == SOFT).astype(np.int64)),
            pixel_values=None if pixels is None else torch.tensor(pixels),
        ).logits.numpy()
    ours = model(mx.array(ids), None if pixels is None else mx.array(pixels), mx.array(mask))
    assert relative(np.array(ours), theirs, mask) < TOLERANCE


@pytest.mark.parametrize("side", ["right", "left"])
def test_text_only_class_equals_transformers(tmp_path: Path, side: str) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    reference = random_torch(Gemma3ForCausalLM(Gemma3TextConfig(**TEXT, attn_implementation="eager")))
    reference.save_pretrained(tmp_path)
    ids, mask = padded([[2, *words(60)], [2, *words(11, 4)]], side)
    with torch.no_grad():
        theirs = reference(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()
    ours = np.array(load_base(tmp_path)(mx.array(ids), attention_mask=mx.array(mask)))
    assert relative(ours, theirs, mask) < TOLERANCE


def test_a_token_changes_no_earlier_logit_outside_its_image(pair: tuple[Any, Any]) -> None:
    _, model = pair
    row = [2, *words(6), *IMAGE, *words(40, 2)]
    pixels = mx.array(np.random.default_rng(5).uniform(-1, 1, (1, 3, 28, 28)).astype(np.float32))
    before = np.array(model(mx.array([row]), pixels))[0]
    for place in (3, 6, 14, 30, len(row) - 1):
        changed = [*row[:place], (row[place] + 1) % 290, *row[place + 1 :]]
        after = np.array(model(mx.array([changed]), pixels))[0]
        assert np.array_equal(before[:place], after[:place])
        assert not np.array_equal(before[place:], after[place:])


def test_a_soft_token_is_seen_by_its_whole_block_and_by_nothing_before(pair: tuple[Any, Any]) -> None:
    _, model = pair
    row = mx.array([[2, *words(6), *IMAGE, *words(4), *IMAGE, *words(9, 2)]])
    types = (row == SOFT).astype(mx.int32)
    rng = np.random.default_rng(6)
    features = rng.normal(size=(8, model.config.text.hidden_size)).astype(np.float32)

    def hidden(values: np.ndarray) -> np.ndarray:
        return np.array(model.hidden(model.embed(row, mx.array(values)), token_type_ids=types))[0]

    changed = features.copy()
    changed[6] += 1.0  # the third soft token of the second image
    moved = np.abs(hidden(features) - hidden(changed)).max(-1) > 0
    first = 1 + 6 + 6 + 4 + 1  # the second image's first soft token
    assert not moved[:first].any()
    assert moved[first : first + 4].all()


def test_images_and_soft_tokens_must_match(pair: tuple[Any, Any]) -> None:
    _, model = pair
    pixels = mx.zeros((2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"hold 4 image soft tokens, but 2 image\(s\) of 4"):
        model(mx.array([[2, *IMAGE, 9]]), pixels)
    with pytest.raises(ValueError, match=r"hold 4 image soft tokens, but 0"):
        model(mx.array([[2, *IMAGE, 9]]))


def test_both_generations_of_config_give_the_same_logits(pair: tuple[Any, Any], tmp_path: Path) -> None:
    import json

    from mlx_medlora.gemma.config import published_config, read_config

    reference, model = pair
    reference.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_parameters" in written["text_config"]
    short = published_config(read_config(tmp_path))
    assert "rope_parameters" not in short["text_config"]
    (tmp_path / "config.json").write_text(json.dumps(short))
    ids = mx.array([[2, *words(50)]])
    assert mx.array_equal(load_base(tmp_path)(ids), model(ids))
