"""The spellings of Gemma 3's config.json: the hub's, transformers 4.50 to 5's, mlx-vlm's, and mixtures."""

from __future__ import annotations

from typing import Any

SLIDING, FULL = "sliding_attention", "full_attention"
ACTIVATION = "gelu_pytorch_tanh"


def text_fields(raw: dict[str, Any], model: Any) -> dict[str, Any]:
    """The TextConfig fields that a text configuration gives, whatever their spelling.

    Raises ValueError for what this toolkit does not compute (other activations, RoPE types,
    bidirectional text).
    """
    _refuse_unsupported(raw)
    fields = {key: raw[key] for key in model.model_fields if raw.get(key) is not None}
    fields["layer_types"] = _layer_types(raw, model)
    fields |= _rope_fields(raw)
    return fields


def vision_fields(raw: dict[str, Any], model: Any) -> dict[str, Any]:
    """The VisionConfig fields that a vision configuration gives."""
    if raw.get("hidden_act", ACTIVATION) != ACTIVATION:
        raise ValueError(f"vision hidden_act is {raw['hidden_act']!r}; SigLIP in Gemma 3 uses {ACTIVATION}")
    return {key: raw[key] for key in model.model_fields if raw.get(key) is not None}


def shared_fields(raw: dict[str, Any], text_raw: dict[str, Any]) -> dict[str, Any]:
    """The special tokens, dtype, head and quantisation, from the top level or the text configuration."""
    fields: dict[str, Any] = {}
    names = {
        "image_token_id": ("image_token_index", "image_token_id"),
        "boi_token_id": ("boi_token_index", "boi_token_id"),
        "eoi_token_id": ("eoi_token_index", "eoi_token_id"),
        "mm_tokens_per_image": ("mm_tokens_per_image",),
        "pad_token_id": ("pad_token_id",),
        "bos_token_id": ("bos_token_id",),
        "dtype": ("torch_dtype", "dtype"),
    }
    for field, spellings in names.items():
        for place in (raw, text_raw):
            found = [place[name] for name in spellings if place.get(name) is not None]
            if found:
                fields.setdefault(field, found[0])
    stops = raw.get("eos_token_id") if raw.get("eos_token_id") is not None else text_raw.get("eos_token_id")
    if stops is not None:
        fields["eos_token_ids"] = tuple(stops) if isinstance(stops, list) else (stops,)
    if raw.get("tie_word_embeddings", text_raw.get("tie_word_embeddings")) is False:
        fields["tied_head"] = False
    quantization = raw.get("quantization") or raw.get("quantization_config")
    if quantization is not None:
        fields["quantization"] = _quantization(quantization)
    return fields


def _quantization(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict) or "bits" not in raw or "quant_method" in raw:
        method = raw.get("quant_method") if isinstance(raw, dict) else raw
        raise ValueError(f"quantised with {method!r}; only MLX's own quantisation can be loaded")
    return {key: raw[key] for key in ("bits", "group_size", "mode") if raw.get(key) is not None}


def _refuse_unsupported(raw: dict[str, Any]) -> None:
    activation = raw.get("hidden_activation") or raw.get("hidden_act") or ACTIVATION
    if activation != ACTIVATION:
        raise ValueError(f"hidden_activation is {activation!r}; Gemma 3 uses {ACTIVATION}")
    if raw.get("use_bidirectional_attention"):
        raise ValueError("use_bidirectional_attention is set: this is an embedding model, not MedGemma")


def _layer_types(raw: dict[str, Any], model: Any) -> tuple[str, ...]:
    given = raw.get("layer_types")
    if given is not None:
        return tuple(given)
    pattern = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or 6
    default = model.model_fields["num_hidden_layers"].default
    layers = raw.get("num_hidden_layers", default)
    if not isinstance(layers, int) or not 0 < layers <= 512:
        raise ValueError(f"num_hidden_layers is {layers!r}; expected a whole number from 1 to 512")
    if not isinstance(pattern, int) or pattern < 1:
        raise ValueError(f"sliding_window_pattern is {pattern!r}; expected a positive whole number")
    return tuple(SLIDING if (index + 1) % pattern else FULL for index in range(layers))


def _rope_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """Theta of both layer types and the global factor; a later, fuller spelling wins over an older one."""
    parameters = raw.get("rope_parameters") or {}
    nested = FULL in parameters or SLIDING in parameters
    full = dict((parameters.get(FULL) if nested else parameters) or {})
    sliding = dict((parameters.get(SLIDING) if nested else None) or {})
    for key, value in (raw.get("rope_scaling") or {}).items():
        full.setdefault(key, value)
    kind = full.get("rope_type") or full.get("type") or "default"
    if kind not in ("default", "linear") or sliding.get("rope_type", "default") != "default":
        raise ValueError(f"RoPE of type {kind!r} is not Gemma 3's (default or linear)")
    fields = {
        "rope_theta": full.get("rope_theta") or raw.get("rope_theta"),
        "rope_local_theta": sliding.get("rope_theta") or raw.get("rope_local_base_freq"),
        "rope_factor": full.get("factor") if kind == "linear" or "factor" in full else None,
    }
    return {key: value for key, value in fields.items() if value is not None}


def published(config: dict[str, Any]) -> dict[str, Any]:
    """The hub's form of a dumped ModelConfig (see `config.published_config`)."""
    text, vision = dict(config["text"]), config["vision"]
    factor, local = text.pop("rope_factor"), text.pop("rope_local_theta")
    if (scalar := text["query_pre_attn_scalar"]) == int(scalar):
        text["query_pre_attn_scalar"] = int(scalar)  # transformers refuses 256.0
    text |= {
        "model_type": "gemma3_text",
        "hidden_activation": ACTIVATION,
        "rope_local_base_freq": local,
        "rope_scaling": None if factor == 1.0 else {"factor": factor, "rope_type": "linear"},
        "sliding_window_pattern": _pattern(text["layer_types"]),
        "tie_word_embeddings": config["tied_head"],
    }
    tokens = {
        "pad_token_id": config["pad_token_id"],
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": list(config["eos_token_ids"]),
    }
    extra = {} if config["quantization"] is None else {"quantization": config["quantization"]}
    if vision is None:
        top = {"architectures": ["Gemma3ForCausalLM"], "torch_dtype": config["dtype"]}
        return top | text | tokens | extra
    return {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "hidden_size": text["hidden_size"],
        "mm_tokens_per_image": config["mm_tokens_per_image"],
        "image_token_index": config["image_token_id"],
        "boi_token_index": config["boi_token_id"],
        "eoi_token_index": config["eoi_token_id"],
        "text_config": text | {"mm_tokens_per_image": config["mm_tokens_per_image"]},
        "vision_config": vision
        | {"model_type": "siglip_vision_model", "hidden_act": ACTIVATION, "vision_use_head": False},
        "tie_word_embeddings": config["tied_head"],
        "torch_dtype": config["dtype"],
        **tokens,
        **extra,
    }


def _pattern(layer_types: list[str]) -> int:
    """The period at which a global layer comes; the number of layers plus one where none does."""
    return layer_types.index(FULL) + 1 if FULL in layer_types else len(layer_types) + 1
