"""Gemma 3 as MedGemma uses it: images and text, or text alone.

The parameter tree keeps the published names. Letters: B rows, L tokens, N images, T soft tokens an
image, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.masks import make_masks
from mlx_medlora.gemma.text import Matrix, TextStack
from mlx_medlora.gemma.vision import Projector, VisionTower

if TYPE_CHECKING:
    from mlx_medlora.gemma.cache import Cache  # which takes seconds: mlx-lm imports transformers


@dataclass(frozen=True)
class Origin:
    """Where a model's weights were read, and the dtype they were cast to, if any."""

    directory: Path
    dtype: mx.Dtype | None = None


class Base(nn.Module):
    """What the image+text and the text-only model share. Subclasses give `text` and `speaker`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.origin: Origin | None = None

    @property
    def text(self) -> TextStack:
        """The text stack, wherever the published names put it."""
        raise NotImplementedError

    @property
    def speaker(self) -> nn.Module:
        """The module that carries `lm_head` where the head is not the embedding."""
        raise NotImplementedError

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that hidden states are computed in."""
        return self.text.norm.weight.dtype

    def __call__(
        self,
        input_ids: mx.array,
        pixel_values: mx.array | None = None,
        attention_mask: mx.array | None = None,
        token_type_ids: mx.array | None = None,
    ) -> mx.array:
        """Logits (B, L, V); arguments and meaning are those of transformers' Gemma 3.

        input_ids (B, L) int; pixel_values (N, 3, H, W) in reading order of the images;
        attention_mask (B, L) 1 = token, with left or right padding; token_type_ids (B, L) 1 = image
        soft token, derived from input_ids where absent.
        Raises ValueError where the soft tokens and the images do not match.
        """
        input_ids = mx.array(input_ids)
        soft = input_ids == self.config.image_token_id
        self._check_images(int(soft.sum()), pixel_values)
        if token_type_ids is None and pixel_values is not None:
            token_type_ids = soft.astype(mx.int32)
        features = None if pixel_values is None else self.image_features(mx.array(pixel_values))
        hidden = self.hidden(self.embed(input_ids, features), attention_mask, token_type_ids)
        return self.head(hidden)

    def _check_images(self, soft_tokens: int, pixel_values: mx.array | None) -> None:
        images = 0 if pixel_values is None else pixel_values.shape[0]
        per_image = self.config.mm_tokens_per_image
        if soft_tokens != images * per_image:
            raise ValueError(
                f"input_ids hold {soft_tokens} image soft tokens, "
                f"but {images} image(s) of {per_image} were given"
            )

    def image_features(self, pixel_values: mx.array) -> mx.array:
        """(N, 3, H, W) pixels -> (N, T, D) soft tokens. Raises ValueError for a text-only model."""
        raise ValueError("this is a text-only model: it cannot look at images")

    def embed(self, input_ids: mx.array, features: mx.array | None = None) -> mx.array:
        """Embed (B, L) ids; soft tokens take `features`, (N, T, D) or (N * T, D), in reading order."""
        soft = input_ids == self.config.image_token_id
        x = self.text.embed(mx.where(input_ids < self.config.text.vocab_size, input_ids, 0))
        if features is None:
            return x
        flat = features.reshape(-1, features.shape[-1]).astype(x.dtype)
        order = mx.cumsum(soft.reshape(-1).astype(mx.int32)).reshape(soft.shape) - 1  # (B, L)
        return mx.where(soft[..., None], flat[mx.clip(order, 0, flat.shape[0] - 1)], x)

    def hidden(
        self,
        embeddings: mx.array,
        attention_mask: mx.array | None = None,
        token_type_ids: mx.array | None = None,
        cache: Cache | None = None,
        wanted: mx.array | None = None,
        *,
        first: int = 0,
        recompute: bool = False,
    ) -> mx.array:
        """(B, L, D) embeddings -> (B, L, D) hidden states after the final norm.

        With a cache that already holds tokens, L must be 1: the prompt goes in as one piece. `wanted` (B, Q)
        asks for those positions alone, (B, Q, D); `first` and `recompute` as in `TextStack`.
        """
        if cache is not None and cache.length:
            if embeddings.shape[1] != 1:
                raise ValueError("a cache that holds a prompt takes one token at a time")
            return self.text(embeddings, cache.decode_masks(), cache)
        window = self.config.text.sliding_window
        masks = make_masks(embeddings.shape[1], window, attention_mask, token_type_ids)
        return self.text(embeddings, masks, cache, wanted, first=first, recompute=recompute)

    def below(self, embeddings: mx.array, token_type_ids: mx.array | None, count: int) -> mx.array:
        """(B, L, D) embeddings -> (B, L, D) as they leave the first `count` layers."""
        window = self.config.text.sliding_window
        return self.text.below(
            embeddings, make_masks(embeddings.shape[1], window, None, token_type_ids), count
        )

    def head(self, hidden: mx.array) -> mx.array:
        """(..., D) hidden states -> (..., V) logits."""
        return self.text.head(hidden, getattr(self.speaker, "lm_head", None))

    def head_rows(self, start: int, end: int) -> Matrix:
        """Rows `start` to `end` of the head's matrix: a part of the vocabulary, still packed if it is."""
        module = getattr(self.speaker, "lm_head", self.text.embed_tokens)
        module = getattr(module, "embedding", module)
        return [module[part][start:end] for part in ("weight", "scales", "biases") if part in module]

    def head_of(self, hidden: mx.array, matrix: Matrix) -> mx.array:
        """(..., D) hidden states -> (..., rows of `matrix`) logits; `matrix` is what `head_rows` gave."""
        if len(matrix) == 1:
            return self.text.capped(hidden @ matrix[0].astype(hidden.dtype).T)
        width = self.config.text.hidden_size
        group = width // matrix[1].shape[1]
        bits = matrix[0].shape[1] * 32 // width
        weight, scales, biases = (mx.stop_gradient(part) for part in matrix)
        logits = mx.quantized_matmul(hidden, weight, scales, biases, group_size=group, bits=bits)
        return self.text.capped(logits)


def _head(config: ModelConfig) -> nn.Linear:
    return nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)


class LanguageModel(nn.Module):
    """A holder that gives the published name `language_model.model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = TextStack(config.text)
        if not config.tied_head:
            self.lm_head = _head(config)


class Gemma3(Base):
    """`Gemma3ForConditionalGeneration`: SigLIP tower, projector, text stack."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.vision is None:
            raise ValueError("this configuration has no vision tower: use Gemma3Text")
        self.vision_tower = VisionTower(config.vision)
        self.multi_modal_projector = Projector(
            config.vision, config.text.hidden_size, config.mm_tokens_per_image
        )
        self.language_model = LanguageModel(config)

    @property
    def text(self) -> TextStack:
        """The text stack."""
        return self.language_model.model

    @property
    def speaker(self) -> nn.Module:
        """The language model."""
        return self.language_model

    def image_features(self, pixel_values: mx.array) -> mx.array:
        """(N, 3, H, W) pixels -> (N, T, D) soft tokens.

        Raises ValueError for another image size, and after `drop_tower`.
        """
        vision = self.config.vision
        assert vision is not None
        if not self.has_tower:
            raise ValueError("the vision tower was dropped from this model: load it again to look at images")
        expected = (vision.num_channels, vision.image_size, vision.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(f"pixel_values are {tuple(pixel_values.shape)}; expected (N, {expected})")
        return self.multi_modal_projector(self.vision_tower(pixel_values))

    @property
    def has_tower(self) -> bool:
        """False after `drop_tower`."""
        return "vision_tower" in self

    def drop_tower(self) -> None:
        """Let go of the tower and the projector: 0.8 GB of MedGemma 4B in bf16, 1.7 GB in fp32.

        For a model whose images' features are all known. It cannot look at images from then on.
        """
        if self.has_tower:
            del self.vision_tower, self.multi_modal_projector
            mx.clear_cache()


class Gemma3Text(Base):
    """`Gemma3ForCausalLM`: the text stack alone, as in medgemma-27b-text-it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.model = TextStack(config.text)
        if not config.tied_head:
            self.lm_head = _head(config)

    @property
    def text(self) -> TextStack:
        """The text stack."""
        return self.model

    @property
    def speaker(self) -> nn.Module:
        """The model itself."""
        return self


def build(config: ModelConfig) -> Gemma3 | Gemma3Text:
    """An untrained model of the configuration's kind."""
    return Gemma3Text(config) if config.text_only else Gemma3(config)
