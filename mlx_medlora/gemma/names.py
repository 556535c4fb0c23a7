"""Canonical tensor names: the hub's, whichever library wrote the checkpoint.

| layout | written by | example |
|---|---|---|
| a | the hub | `language_model.model.layers.0...`, `vision_tower.vision_model...` |
| b | transformers >= 5.6 | as a, but `vision_tower.encoder...` |
| b' | the same, `save_original_format=False` | `model.language_model.layers.0...` |
| c | mlx-vlm | as a, with `language_model.lm_head...` |
| text | text-only checkpoints | `model.layers.0...`, some with `language_model.` before it |
"""

from __future__ import annotations

TEXT = "language_model.model."
TOWER = "vision_tower.vision_model."
PROJECTOR = "multi_modal_projector."
PATCHES = TOWER + "embeddings.patch_embedding.weight"
POSITIONS = TOWER + "embeddings.position_embedding"
HEAD = "lm_head."
_PARTS = ("language_model.", "vision_tower.", PROJECTOR)
_BUFFERS = ("rotary_emb.inv_freq", "embeddings.position_ids")


def canonical(name: str, *, text_only: bool) -> str | None:
    """The parameter's name in this toolkit's tree; None for tensors that Gemma 3 does not compute with.

    The output head comes back as `lm_head.*`: a copy of the embedding unless the model is untied.
    A name that fits no layout is returned as it is, for the caller to report.
    """
    if name.endswith(_BUFFERS):
        return None
    if name.startswith("model.") and name[len("model.") :].startswith(_PARTS):
        name = name[len("model.") :]
    if name.startswith("language_model."):
        return _text(name[len("language_model.") :], text_only)
    if name.startswith("vision_tower."):
        rest = name[len("vision_tower.") :].removeprefix("vision_model.")
        return None if rest.startswith("head.") else TOWER + rest
    return name


def _text(rest: str, text_only: bool) -> str:
    """Name a tensor whose `language_model.` prefix has been taken off."""
    if rest.startswith(HEAD):
        return rest
    rest = rest.removeprefix("model.")
    return ("model." if text_only else TEXT) + rest


def embedding(*, text_only: bool) -> str:
    """The module whose matrix is both the embedding and the head."""
    return ("model." if text_only else TEXT) + "embed_tokens"


def head(*, text_only: bool) -> str:
    """The module of an untied head in this toolkit's tree."""
    return "lm_head" if text_only else "language_model.lm_head"


def listed(names: list[str], shown: int = 4) -> str:
    """`3 tensors (a, b, c)`, with only the first few of a long list."""
    head = ", ".join(names[:shown])
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''} ({head}{more})"
