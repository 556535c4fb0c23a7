"""MedGemma's published geometries by name: a plan needs no download.

Source: the config.json of google/medgemma-4b-it and -27b-it; FACTS of both are in docs/plan.md.
"""

from __future__ import annotations

from mlx_medlora.gemma.config import LayerType, ModelConfig, TextConfig, VisionConfig

_SIGLIP = VisionConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=896,
    patch_size=14,
)


def _layer_types(layers: int) -> tuple[LayerType, ...]:
    """Every sixth layer is global."""
    return tuple("full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers))


_TEXT_4B = TextConfig(
    hidden_size=2560,
    intermediate_size=10240,
    num_hidden_layers=34,
    sliding_window=1024,
    rope_factor=8.0,
    layer_types=_layer_types(34),
)
_TEXT_27B = TextConfig(
    hidden_size=5376,
    intermediate_size=21504,
    num_hidden_layers=62,
    num_attention_heads=32,
    num_key_value_heads=16,
    head_dim=128,
    query_pre_attn_scalar=168,
    sliding_window=1024,
    rope_factor=8.0,
    layer_types=_layer_types(62),
)

GEOMETRIES: dict[str, ModelConfig] = {
    "medgemma-4b": ModelConfig(text=_TEXT_4B, vision=_SIGLIP),
    "medgemma-27b": ModelConfig(text=_TEXT_27B, vision=_SIGLIP),
    "medgemma-27b-text": ModelConfig(text=_TEXT_27B),
}

HUB_IDS: dict[str, str] = {
    "google/medgemma-4b-it": "medgemma-4b",
    "google/medgemma-4b-pt": "medgemma-4b",
    "google/medgemma-1.5-4b-it": "medgemma-4b",
    "google/medgemma-27b-it": "medgemma-27b",
    "google/medgemma-27b-text-it": "medgemma-27b-text",
}


def known_geometry(name: str) -> ModelConfig | None:
    """The published geometry that `name` (a built-in name or a hub id) stands for, else None."""
    return GEOMETRIES.get(HUB_IDS.get(name, name))
