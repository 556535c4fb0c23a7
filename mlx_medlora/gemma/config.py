"""Gemma 3's geometry, read from every spelling of config.json that is in use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.gemma import spellings
from mlx_medlora.settings import StrictModel, describe

LayerType = Literal["sliding_attention", "full_attention"]
TokenId = Annotated[int, Field(ge=0, le=2**22)]


class TextConfig(StrictModel):
    """The text stack. Defaults are transformers' `Gemma3TextConfig`."""

    vocab_size: int = Field(262_208, gt=0, le=2**22)
    hidden_size: int = Field(2304, gt=0, le=2**16)
    intermediate_size: int = Field(9216, gt=0, le=2**18)
    num_hidden_layers: int = Field(26, gt=0, le=512)
    num_attention_heads: int = Field(8, gt=0, le=1024)
    num_key_value_heads: int = Field(4, gt=0, le=1024)
    head_dim: int = Field(256, gt=0, le=4096, multiple_of=2)
    query_pre_attn_scalar: float = Field(256, gt=0)
    rms_norm_eps: float = Field(1e-6, gt=0)
    max_position_embeddings: int = Field(131_072, gt=0, le=2**24)
    sliding_window: int = Field(4096, gt=0, le=2**24)
    layer_types: tuple[LayerType, ...] = ()
    rope_theta: float = Field(1_000_000.0, gt=0)
    rope_local_theta: float = Field(10_000.0, gt=0)
    rope_factor: float = Field(1.0, ge=1.0)
    attention_bias: bool = False
    final_logit_softcapping: float | None = None


class VisionConfig(StrictModel):
    """The SigLIP tower. Defaults are transformers' `SiglipVisionConfig`."""

    hidden_size: int = Field(768, gt=0, le=2**16)
    intermediate_size: int = Field(3072, gt=0, le=2**18)
    num_hidden_layers: int = Field(12, gt=0, le=512)
    num_attention_heads: int = Field(12, gt=0, le=1024)
    num_channels: int = Field(3, gt=0, le=16)
    image_size: int = Field(224, gt=0, le=2048)
    patch_size: int = Field(16, gt=0, le=1024)
    layer_norm_eps: float = Field(1e-6, gt=0)

    @property
    def patches_per_side(self) -> int:
        """Patches along one side of the square image."""
        return self.image_size // self.patch_size


class Quantization(StrictModel):
    """How the text stack's matrices were quantised: MLX's affine groups."""

    bits: Literal[2, 3, 4, 5, 6, 8] = 4
    group_size: Literal[32, 64, 128] = 64
    mode: Literal["affine"] = "affine"


class ModelConfig(StrictModel):
    """A whole checkpoint's geometry and the special tokens it speaks with.

    `tied_head` is False where the head is a matrix of its own: after a fine-tune that saved it.
    """

    text: TextConfig
    vision: VisionConfig | None = None
    mm_tokens_per_image: int = Field(256, gt=0, le=2**14)
    image_token_id: TokenId = 262_144
    boi_token_id: TokenId = 255_999
    eoi_token_id: TokenId = 256_000
    eos_token_ids: tuple[TokenId, ...] = (1, 106)
    pad_token_id: TokenId = 0
    bos_token_id: TokenId = 2
    dtype: str = "bfloat16"
    quantization: Quantization | None = None
    tied_head: bool = True

    @property
    def text_only(self) -> bool:
        """True for `Gemma3ForCausalLM` checkpoints, which have no vision tower."""
        return self.vision is None


def read_config(directory: Path, *, allow_unscaled_rope: bool = False) -> ModelConfig:
    """Read `config.json` (and `generation_config.json`, if there) of a checkpoint directory.

    `allow_unscaled_rope` accepts a 4B or larger config whose global RoPE factor was lost.
    Raises InputError where the file is absent or malformed, is not Gemma 3's, or its numbers cannot
    be a model's.
    """
    path = directory / "config.json"
    if not directory.is_dir():
        raise InputError("no such model directory", path=directory, hint="Run `mlx-medlora convert` first.")
    if not path.is_file():
        raise InputError(
            "no config.json here, so this is not a model directory",
            path=directory,
            hint="Give the directory that `mlx-medlora convert` or `save_pretrained` wrote.",
        )
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected a JSON object", path=path, line=1)
    refuse_code(raw, path)
    with _said_of(path):
        config = parse_config(raw)
    generation = directory / "generation_config.json"
    if generation.is_file():
        found = read_json(generation)
        with _said_of(generation):
            config = _with_stop_tokens(config, found)
    with _said_of(path):
        _check(config, allow_unscaled_rope)
    return config


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    """Turn what a wrong value raises into an error that names its file."""
    try:
        yield
    except ValidationError as error:
        raise InputError(describe(error), path=path) from error
    except ValueError as error:
        raise InputError(str(error), path=path) from error
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise InputError(f"makes no sense as Gemma 3's configuration: {error}", path=path) from error


def refuse_code(raw: dict[str, Any], path: Path) -> None:
    """Raise InputError for settings that name Python code of the checkpoint's own."""
    if raw.get("auto_map"):
        raise InputError(
            f"auto_map names code to run ({raw['auto_map']!s:.80}); no code of a checkpoint is run here",
            path=path,
            hint="MedGemma needs none: use its own files.",
        )


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """Build a ModelConfig from a parsed `config.json`, whichever library wrote it.

    Raises ValueError or pydantic's ValidationError where it is not a Gemma 3 configuration.
    """
    model_type = raw.get("model_type")
    if model_type not in ("gemma3", "gemma3_text"):
        raise ValueError(f"model_type is {model_type!r}; this toolkit runs gemma3 and gemma3_text (MedGemma)")
    text_raw = raw if model_type == "gemma3_text" else raw.get("text_config")
    if not isinstance(text_raw, dict):
        raise ValueError("text_config is missing")
    vision_raw = None if model_type == "gemma3_text" else raw.get("vision_config")
    if model_type == "gemma3" and not isinstance(vision_raw, dict):
        raise ValueError("vision_config is missing from a gemma3 (image+text) config")
    text = TextConfig(**spellings.text_fields(text_raw, TextConfig))
    vision = None if vision_raw is None else VisionConfig(**spellings.vision_fields(vision_raw, VisionConfig))
    return ModelConfig(text=text, vision=vision, **spellings.shared_fields(raw, text_raw))


def _with_stop_tokens(config: ModelConfig, generation: Any) -> ModelConfig:
    stops = generation.get("eos_token_id") if isinstance(generation, dict) else None
    if stops is None:
        return config
    ids = tuple(stops) if isinstance(stops, list) else (stops,)
    return ModelConfig.model_validate(config.model_dump() | {"eos_token_ids": ids})


def _check(config: ModelConfig, allow_unscaled_rope: bool) -> None:
    """Raise ValueError for numbers that do not fit together."""
    text, vision = config.text, config.vision
    if text.num_attention_heads % text.num_key_value_heads:
        raise ValueError(
            f"{text.num_attention_heads} attention heads cannot share "
            f"{text.num_key_value_heads} key/value heads"
        )
    if len(text.layer_types) != text.num_hidden_layers:
        raise ValueError(f"{len(text.layer_types)} layer_types for {text.num_hidden_layers} layers")
    large = text.hidden_size >= 2560 and text.num_hidden_layers >= 34
    if large and text.rope_factor == 1.0 and not allow_unscaled_rope:
        raise ValueError(
            "the global RoPE factor (8 in MedGemma) is missing: some tools drop it when they rewrite the "
            "config, and long prompts then go wrong; restore rope_scaling from the published config"
        )
    if config.pad_token_id >= text.vocab_size:
        raise ValueError(f"pad_token_id {config.pad_token_id} is beyond the vocabulary of {text.vocab_size}")
    if vision is None:
        return
    if config.image_token_id >= text.vocab_size:
        raise ValueError(
            f"image_token_index {config.image_token_id} is beyond the vocabulary of {text.vocab_size}"
        )
    side = int(config.mm_tokens_per_image**0.5)
    if side * side != config.mm_tokens_per_image or vision.patches_per_side % side:
        raise ValueError(
            f"{config.mm_tokens_per_image} soft tokens do not divide {vision.patches_per_side} x "
            f"{vision.patches_per_side} patches into squares"
        )
    if vision.hidden_size % vision.num_attention_heads:
        raise ValueError(
            f"vision width {vision.hidden_size} does not divide into {vision.num_attention_heads} heads"
        )


def published_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` to write: the hub's form, readable by transformers, mlx-vlm and this toolkit.

    `hidden_size` at the top and `mm_tokens_per_image` inside `text_config` are for mlx-vlm, which
    takes wrong defaults without them.
    """
    return spellings.published(config.model_dump(mode="json"))
