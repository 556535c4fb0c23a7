"""Gemma 3's text stack.

Letters: B rows, L tokens, K keys, Q wanted positions, D width, H heads, G key/value heads, E = head_dim,
V vocabulary.
Source: transformers' `modeling_gemma3.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.attention import attend
from mlx_medlora.gemma.config import LayerType, TextConfig
from mlx_medlora.gemma.elementwise import gated_gelu
from mlx_medlora.gemma.masks import Mask, Masks, mask_at
from mlx_medlora.gemma.norms import RMSNorm
from mlx_medlora.gemma.recompute import recomputed_in
from mlx_medlora.gemma.rope import Table, rotary_table, rotate, table_at

if TYPE_CHECKING:
    from mlx_medlora.gemma.cache import Cache  # which takes seconds: mlx-lm imports transformers

Tables = dict[LayerType, Table]
Matrix = list[mx.array]  # a weight, or packed words with their scales and biases


def at(x: mx.array, positions: mx.array) -> mx.array:
    """(B, L, D) at (B, Q) positions -> (B, Q, D)."""
    return mx.take_along_axis(x, positions[..., None], axis=1)


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.scale = config.query_pre_attn_scalar**-0.5
        width, bias = config.hidden_size, config.attention_bias
        self.q_proj = nn.Linear(width, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(width, self.groups * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(width, self.groups * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, width, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def __call__(
        self, x: mx.array, table: Table, mask: Mask, cache: Any = None, wanted: mx.array | None = None
    ) -> mx.array:
        """(B, L, D) -> (B, L, D), or (B, Q, D) at the positions `wanted` (B, Q)."""
        rows, length, _ = x.shape
        k = self.k_proj(x).reshape(rows, length, self.groups, self.head_dim).transpose(0, 2, 1, 3)
        v = self.v_proj(x).reshape(rows, length, self.groups, self.head_dim).transpose(0, 2, 1, 3)
        k = rotate(self.k_norm(k), table)  # (B, G, L, E)
        if wanted is not None:
            x, table, mask = at(x, wanted), table_at(table, wanted), mask_at(mask, wanted, length)
        q = self.q_proj(x).reshape(rows, -1, self.heads, self.head_dim).transpose(0, 2, 1, 3)
        q = rotate(self.q_norm(q), table)  # (B, H, L, E)
        if cache is not None:
            k, v = cache.update_and_fetch(k, v)  # (B, G, K, E)
        out = attend(q, k, v, self.scale, mask)
        return self.o_proj(out.transpose(0, 2, 1, 3).reshape(rows, q.shape[2], -1))


class MLP(nn.Module):
    """Gated MLP with the tanh form of GELU."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def inner(self, x: mx.array) -> mx.array:
        """(B, L, D) -> (B, L, width of the MLP)."""
        return gated_gelu(self.gate_proj(x), self.up_proj(x))

    def __call__(self, x: mx.array) -> mx.array:
        """(B, L, D) -> (B, L, D)."""
        return self.down_proj(self.inner(x))


class DecoderLayer(nn.Module):
    """Attention and MLP, each normalised before and after, each with its residual."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(width, eps)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.pre_feedforward_layernorm = RMSNorm(width, eps)
        self.post_feedforward_layernorm = RMSNorm(width, eps)

    def __call__(
        self,
        x: mx.array,
        table: Table,
        mask: Mask,
        cache: Any = None,
        wanted: mx.array | None = None,
        *,
        recompute: bool = False,
    ) -> mx.array:
        """(B, L, D) -> (B, L, D), or (B, Q, D) at the positions `wanted` (B, Q).

        With `recompute` (gradient checkpointing) the backward pass computes the MLP again from what enters,
        but for its last product, whose result is kept: a quarter of the layer's work for a few bytes. Then it
        computes attention again. Where that product is trained its input would have to be kept: then the MLP
        is computed again with it.
        """

        def attended(x: mx.array) -> tuple[mx.array]:
            found = self.self_attn(self.input_layernorm(x), table, mask, cache, wanted)
            return (self.post_attention_layernorm(found),)

        def active(x: mx.array) -> tuple[mx.array]:
            return (self.mlp.inner(self.pre_feedforward_layernorm(x)),)

        def whole(x: mx.array) -> tuple[mx.array]:
            return (self.mlp.down_proj(*active(x)),)

        beside = x if wanted is None else at(x, wanted)
        if not recompute:
            x = beside + attended(x)[0]
            return x + self.post_feedforward_layernorm(whole(x)[0])
        x = beside + recomputed_in(self.self_attn, attended, x)[0]
        if self.mlp.down_proj.trainable_parameters():
            return x + self.post_feedforward_layernorm(recomputed_in(self.mlp, whole, x)[0])
        return x + self.post_feedforward_layernorm(self.mlp.down_proj(*recomputed_in(self.mlp, active, x)))


class TextStack(nn.Module):
    """Embedding, decoder layers and final norm; a tied head is the embedding, held once."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def embed(self, input_ids: mx.array) -> mx.array:
        """(B, L) ids -> (B, L, D), scaled by sqrt(D) rounded to the embedding's dtype, as published."""
        x: mx.array = self.embed_tokens(input_ids)
        return x * mx.array(self.config.hidden_size**0.5).astype(x.dtype)

    def __call__(
        self,
        x: mx.array,
        masks: Masks,
        cache: Cache | None = None,
        wanted: mx.array | None = None,
        *,
        first: int = 0,
        recompute: bool = False,
        tables: Tables | None = None,
    ) -> mx.array:
        """(B, L, D) embeddings -> (B, L, D) hidden states after the final norm.

        With `wanted` (B, Q) int32 positions only those come back, (B, Q, D): the last layer then computes
        queries, output projection and MLP for them alone. `first` is the layer that `x` enters;
        `recompute` keeps less for the backward pass, see `DecoderLayer`; `tables` are the rotary ones where
        positions are not those that follow the cache's.
        """
        length = x.shape[1]
        offset = 0 if cache is None else cache.length
        tables = tables or self.tables(offset, length)
        for index in range(first, len(self.layers)):
            kind = self.config.layer_types[index]
            mask = masks.full_attention if kind == "full_attention" else masks.sliding_attention
            last = wanted if index == len(self.layers) - 1 else None
            held = None if cache is None else cache.layers[index]
            x = self.layers[index](x, tables[kind], mask, held, last, recompute=recompute)
        if cache is not None:
            cache.length += length
        return self.norm(x)

    def below(self, x: mx.array, masks: Masks, count: int) -> mx.array:
        """(B, L, D) embeddings -> (B, L, D) as they leave the first `count` layers."""
        tables = self.tables(0, x.shape[1])
        for kind, layer in zip(self.config.layer_types[:count], self.layers[:count], strict=True):
            mask = masks.full_attention if kind == "full_attention" else masks.sliding_attention
            x = layer(x, tables[kind], mask)
        return x

    def tables(self, offset: int, length: int) -> Tables:
        """The rotary tables of both kinds of layer for positions offset .. offset + length - 1."""
        return {kind: self.rotary(kind, offset, length) for kind in set(self.config.layer_types)}

    def rotary(self, kind: LayerType, offset: int, length: int) -> Table:
        """The rotary table of one kind of layer: each has its own base, and only global ones a factor."""
        config = self.config
        if kind == "full_attention":
            return rotary_table(offset, length, config.head_dim, config.rope_theta, config.rope_factor)
        return rotary_table(offset, length, config.head_dim, config.rope_local_theta, 1.0)

    def head(self, hidden: mx.array, untied: nn.Module | None = None) -> mx.array:
        """(..., D) hidden states -> (..., V) logits, by `untied` or else by the embedding."""
        return self.capped(self.embed_tokens.as_linear(hidden) if untied is None else untied(hidden))

    def capped(self, logits: mx.array) -> mx.array:
        """Logits under the configuration's soft cap; MedGemma has none."""
        cap = self.config.final_logit_softcapping
        return logits if cap is None else mx.tanh(logits / cap) * cap
