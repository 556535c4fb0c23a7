"""Small random checkpoints of unlike geometry, with the embedded model's tokenizer and processor."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from mlx_medlora.parity.ladder import open_sides
from mlx_medlora.parity.sides import Sides

Make = Callable[..., Path]
_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json"),
)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "narrow": {},
    "odd heads": {
        "text": {"hidden_size": 96, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 20}
    },
    "own scalar": {"text": {"query_pre_attn_scalar": 168, "num_key_value_heads": 4}},
    "short window": {"text": {"sliding_window": 24, "num_hidden_layers": 7}},
    "wide tower": {"vision": {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 3}},
    "no scaled rope": {"text": {"rope_factor": 1.0}},
    "old names": {"layout": "hub"},
    "text only": {"text_only": True},
}


def _text(config: Any, changes: dict[str, Any]) -> None:
    usual: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "sliding_window": 40,
    }
    changes = usual | changes
    factor = changes.pop("rope_factor", 8.0)
    for name, value in changes.items():
        setattr(config, name, value)
    layers = config.num_hidden_layers
    config.layer_types = [
        "full_attention" if (i + 1) % 3 == 0 else "sliding_attention" for i in range(layers)
    ]
    config.rope_parameters = {
        "full_attention": {"rope_type": "linear", "factor": factor, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }


def _build(tiny_medgemma: Path, geometry: dict[str, Any]) -> Any:
    import torch
    from transformers import AutoConfig, Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    config = AutoConfig.from_pretrained(tiny_medgemma)
    _text(config.text_config, geometry.get("text", {}))
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, value in (vision | geometry.get("vision", {})).items():
        setattr(config.vision_config, name, value)
    torch.manual_seed(len(str(geometry)))
    kind = Gemma3ForCausalLM if geometry.get("text_only") else Gemma3ForConditionalGeneration
    model = kind(config.text_config if geometry.get("text_only") else config).float()
    with torch.no_grad():  # transformers begins norms and the projector at zero, which would hide faults
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


@pytest.fixture(scope="session")
def checkpoint(tiny_medgemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a geometry's name to its checkpoint's directory."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            geometry = GEOMETRIES[name]
            directory = tmp_path_factory.mktemp("parity") / name.replace(" ", "-")
            _build(tiny_medgemma, geometry).save_pretrained(directory)
            for file in _FILES:
                if (tiny_medgemma / file).is_file():
                    shutil.copyfile(tiny_medgemma / file, directory / file)
            if geometry.get("layout") == "hub":
                _rename(directory / "model.safetensors")
            _keep_tokens(directory / "config.json", tiny_medgemma)
            made[name] = directory
        return made[name]

    return make


def _rename(path: Path) -> None:
    """The hub's own names: the vision tower's with `vision_model`."""
    old, new = "vision_tower.vision_model.", "vision_tower."
    tensors = load_file(path)
    renamed = {(name if old in name else name.replace(new, old)): value for name, value in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})


def _keep_tokens(path: Path, tiny_medgemma: Path) -> None:
    """The special tokens of the tokenizer that lies beside it."""
    raw, tiny = json.loads(path.read_text()), json.loads((tiny_medgemma / "config.json").read_text())
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        raw[name] = tiny[name]
    path.write_text(json.dumps(raw))


@pytest.fixture
def sides(checkpoint: Callable[[str], Path]) -> Sides:
    """Both sides of the narrow checkpoint, freshly opened."""
    return open_sides(checkpoint("narrow"))
