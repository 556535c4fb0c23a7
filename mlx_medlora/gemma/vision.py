"""The SigLIP tower and the projector that turns its patches into soft tokens.

Letters: N images, C channels, H = W image side, P patch side, S patches along a side, D width of the
tower, A attention heads, T soft tokens an image, E width of the text stack.
"""

from __future__ import annotations

import mlx.core as mx
from mlx import nn

from mlx_medlora.gemma.attention import attend
from mlx_medlora.gemma.config import VisionConfig
from mlx_medlora.gemma.elementwise import gelu
from mlx_medlora.gemma.norms import RMSNorm


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel, computed as one matrix product.

    `weight` is (D, P, P, C), MLX's layout; `bias` is (D,).
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        side, channels = config.patch_size, config.num_channels
        bound = (side * side * channels) ** -0.5
        self.weight = mx.random.uniform(-bound, bound, (config.hidden_size, side, side, channels))
        self.bias = mx.zeros((config.hidden_size,))

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, C, H, W) -> (N, S * S, D)."""
        images, channels, height, _ = pixels.shape
        width, patch = self.weight.shape[:2]
        side = height // patch
        x = pixels[:, :, : side * patch, : side * patch].reshape(images, channels, side, patch, side, patch)
        x = x.transpose(0, 2, 4, 3, 5, 1).reshape(images, side * side, -1)  # (N, S * S, P * P * C)
        return x.astype(self.weight.dtype) @ self.weight.reshape(width, -1).T + self.bias


class Embeddings(nn.Module):
    """Patches plus a learned position for each."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(config)
        self.position_embedding = nn.Embedding(config.patches_per_side**2, config.hidden_size)

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, C, H, W) -> (N, S * S, D)."""
        return self.patch_embedding(pixels) + self.position_embedding.weight


class Attention(nn.Module):
    """Full attention among the patches of one image."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, S * S, D) -> (N, S * S, D)."""
        images, patches, width = x.shape
        shape = (images, patches, self.heads, width // self.heads)
        q, k, v = (
            project(x).reshape(shape).transpose(0, 2, 1, 3)  # (N, A, S * S, D / A)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = attend(q, k, v, (width // self.heads) ** -0.5)
        return self.out_proj(out.transpose(0, 2, 1, 3).reshape(images, patches, width))


class MLP(nn.Module):
    """Two layers with the tanh form of GELU between them."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, S * S, D) -> (N, S * S, D)."""
        return self.fc2(gelu(self.fc1(x)))


class EncoderLayer(nn.Module):
    """Pre-norm attention and MLP, each with its residual."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = MLP(config)

    def __call__(self, x: mx.array) -> mx.array:
        """(N, S * S, D) -> (N, S * S, D)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """The stack of layers, under the name that the published weights use."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = [EncoderLayer(config) for _ in range(config.num_hidden_layers)]


class VisionModel(nn.Module):
    """SigLIP's image encoder without its pooling head. Source: transformers' `SiglipVisionModel`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, C, H, W) -> (N, S * S, D)."""
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x)


class VisionTower(nn.Module):
    """A holder that gives the published name `vision_tower.vision_model`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, C, H, W) -> (N, S * S, D)."""
        return self.vision_model(pixels)


class Projector(nn.Module):
    """Average squares of patches, normalise, project. Source: `Gemma3MultiModalProjector`."""

    def __init__(self, config: VisionConfig, text_width: int, soft_tokens: int) -> None:
        super().__init__()
        self.mm_input_projection_weight = mx.random.normal((config.hidden_size, text_width)) * 0.02
        self.mm_soft_emb_norm = RMSNorm(config.hidden_size, config.layer_norm_eps)
        self.side = int(soft_tokens**0.5)

    def __call__(self, patches: mx.array) -> mx.array:
        """(N, S * S, D) -> (N, T, E)."""
        images, count, width = patches.shape
        pool = int(count**0.5) // self.side
        squares = patches.reshape(images, self.side, pool, self.side, pool, width)
        pooled = squares.mean(axis=(2, 4)).reshape(images, self.side * self.side, width)
        return self.mm_soft_emb_norm(pooled) @ self.mm_input_projection_weight
