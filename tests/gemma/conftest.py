"""Small checkpoints as transformers saves them, shared by the tests of reading and converting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def text_settings() -> dict[str, Any]:
    return {
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


@pytest.fixture(scope="session")
def torch_model() -> Any:
    """A seeded random `Gemma3ForConditionalGeneration`, 64 wide."""
    torch = pytest.importorskip("torch")
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text_settings(),
        vision_config=vision | {"image_size": 28, "patch_size": 7},
        mm_tokens_per_image=4,
        image_token_id=300,
        boi_token_id=301,
        eoi_token_id=302,
    )
    return Gemma3ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def torch_text_model() -> Any:
    """A seeded random `Gemma3ForCausalLM`, 64 wide."""
    torch = pytest.importorskip("torch")
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(1)
    return Gemma3ForCausalLM(Gemma3TextConfig(**text_settings())).eval()


@pytest.fixture
def hub_checkpoint(torch_model: Any, tmp_path: Path) -> Path:
    """The image+text model in the hub's layout (a), with the files of a tokenizer beside it."""
    directory = tmp_path / "hub"
    torch_model.save_pretrained(directory)
    rewrite(directory, lambda name: name.replace("vision_tower.", "vision_tower.vision_model."))
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        (directory / name).write_text('{"made": "for a test"}')
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    return directory


def rewrite(directory: Path, rename: Callable[[str], str]) -> None:
    """Rename the tensors of a single-file checkpoint."""
    import mlx.core as mx

    path = directory / "model.safetensors"
    tensors = {rename(name): array for name, array in mx.load(str(path)).items()}
    mx.eval(tensors)
    mx.save_safetensors(str(path), tensors, metadata={"format": "pt"})
