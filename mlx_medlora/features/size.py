"""How large features are, before any are computed."""

from __future__ import annotations

from mlx_medlora.gemma.config import ModelConfig

BYTES = {"bfloat16": 2, "float32": 4}


def features_bytes(config: ModelConfig, images: int, dtype: str | None = None) -> int:
    """Bytes of the features of `images` distinct images: soft tokens x width x bytes of a number each.

    `dtype` is the tower's, "bfloat16" or "float32", the checkpoint's own where it is not given; a text-only
    model has none. Raises KeyError for another dtype.
    """
    if config.text_only:
        return 0
    return images * config.mm_tokens_per_image * config.text.hidden_size * BYTES[dtype or config.dtype]
