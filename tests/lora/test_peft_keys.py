from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_medlora.lora.peft_export import target_pattern
from mlx_medlora.lora.peft_keys import PREFIX, Generation, Key, file_key, module_there, parse

TEXT = st.builds(
    "language_model.model.layers.{}.{}".format,
    st.integers(0, 61),
    st.sampled_from(["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"]),
)
VISION = st.builds(
    "vision_tower.vision_model.encoder.layers.{}.{}".format,
    st.integers(0, 26),
    st.sampled_from(["self_attn.q_proj", "self_attn.out_proj", "mlp.fc1"]),
)
KINDS = st.sampled_from(["lora_a", "lora_b", "magnitude", "lora_bias", "bias"])


@given(st.one_of(TEXT, VISION), KINDS, st.booleans())
def test_keys_travel_there_and_back(module: str, kind: str, before: bool) -> None:
    key = file_key(module, kind, before_4_52=before)  # type: ignore[arg-type]
    assert parse(key, text_only=False) == Key(module, kind)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("model.language_model.layers.3.self_attn.q_proj", "language_model.model.layers.3.self_attn.q_proj"),
        ("language_model.model.layers.3.self_attn.q_proj", "language_model.model.layers.3.self_attn.q_proj"),
        ("model.vision_tower.encoder.layers.1.mlp.fc1", "vision_tower.vision_model.encoder.layers.1.mlp.fc1"),
        (
            "model.vision_tower.vision_model.encoder.layers.1.mlp.fc1",
            "vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        ),
        (
            "vision_tower.vision_model.encoder.layers.1.mlp.fc1",
            "vision_tower.vision_model.encoder.layers.1.mlp.fc1",
        ),
    ],
)
def test_every_generation_s_names(key: str, module: str) -> None:
    assert parse(f"{PREFIX}{key}.lora_A.weight", text_only=False) == Key(module, "lora_a")


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("lm_head.weight", "language_model.lm_head"),
        ("language_model.lm_head.weight", "language_model.lm_head"),
        ("model.language_model.embed_tokens.weight", "language_model.model.embed_tokens"),
        ("language_model.model.embed_tokens.weight", "language_model.model.embed_tokens"),
    ],
)
def test_saved_modules(key: str, module: str) -> None:
    assert parse(PREFIX + key, text_only=False) == Key(module, "whole")


@pytest.mark.parametrize("key", ["x.lora_A.weight", PREFIX + "a.lora_E", PREFIX + "model.norm.weight"])
def test_what_is_no_part_of_an_adapter(key: str) -> None:
    assert parse(key, text_only=False) is None


@given(
    st.sets(st.one_of(TEXT, VISION), min_size=1, max_size=12), st.sets(st.one_of(TEXT, VISION), max_size=12)
)
def test_the_pattern_names_its_modules_and_no_other(inside: set[str], outside: set[str]) -> None:
    pattern = re.compile(target_pattern(sorted(inside)))
    for before, old in ((True, True), (False, True), (False, False)):
        named = {
            module: module_there(module, before_4_52=before, old_vision=old) for module in inside | outside
        }
        assert {module for module, name in named.items() if pattern.fullmatch(name)} == inside


def test_the_generation_is_told_from_the_keys() -> None:
    new = f"{PREFIX}model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    old = f"{PREFIX}language_model.model.layers.0.mlp.up_proj.lora_A.weight"
    tower = f"{PREFIX}model.vision_tower.encoder.layers.0.mlp.fc1.lora_A.weight"
    assert Generation.of([new]) == Generation(before_4_52=False, old_vision=True)
    assert Generation.of([old]) == Generation(before_4_52=True, old_vision=True)
    assert Generation.of([new, tower]) == Generation(before_4_52=False, old_vision=False)
