"""The reference step: one random checkpoint and one batch that every contestant trains on.

Geometry: a Gemma 3 whose vision tower costs about as much as its text stack, as MedGemma 4B's does, small
enough for a laptop's processor. Four rows of 221 tokens with one image each; the last 12 of each row are
supervised. The adapter: LoRA of rank 16, alpha 32, on q, v and o of the text stack, no dropout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from mlx_medlora.gemma.config import ModelConfig

FILE = "batch.npz"
TARGETS = ("q_proj", "v_proj", "o_proj")
ADAPTER = {"rank": 16, "alpha": 32.0, "dropout": 0.0}
LEARNING_RATE, WEIGHT_DECAY = 2e-4, 0.01


@dataclass(frozen=True)
class Batch:
    """Rows of a step, tokens of each (soft tokens included), supervised ones at the end of each."""

    rows: int = 4
    length: int = 221
    supervised: int = 12


@dataclass(frozen=True)
class Shape:
    """Text layers, widths, the tower and the batch of a reference step."""

    layers: int = 8
    hidden: int = 512
    mlp: int = 2048
    heads: int = 8
    groups: int = 4
    head_dim: int = 64
    vocabulary: int = 65_536
    window: int = 512
    vision_layers: int = 7
    vision_hidden: int = 768
    vision_mlp: int = 3072
    vision_heads: int = 12
    image: int = 448
    patch: int = 14
    soft_tokens: int = 64
    batch: Batch = Batch()


REFERENCE = Shape()
QUICK = Shape(
    layers=2,
    hidden=64,
    mlp=128,
    head_dim=16,
    heads=4,
    groups=2,
    vocabulary=512,
    vision_layers=1,
    vision_hidden=48,
    vision_mlp=96,
    vision_heads=4,
    image=112,
    soft_tokens=4,
    batch=Batch(2, 40, 5),
)


@dataclass(frozen=True)
class Rows:
    """ids (B, L) int64, one image's soft tokens in each row; supervised (B, L) bool; pixels (B, 3, H, W)."""

    ids: npt.NDArray[np.int64]
    supervised: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.float32]


def config(shape: Shape) -> ModelConfig:
    """The toolkit's configuration of a shape: every sixth layer global, as in Gemma 3; image tokens last."""
    from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig

    kinds = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(shape.layers)]
    text = TextConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.head_dim,
        query_pre_attn_scalar=shape.head_dim,
        sliding_window=shape.window,
        layer_types=tuple(kinds),
    )
    vision = VisionConfig(
        hidden_size=shape.vision_hidden,
        intermediate_size=shape.vision_mlp,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_heads,
        image_size=shape.image,
        patch_size=shape.patch,
    )
    last = shape.vocabulary - 1
    return ModelConfig(
        text=text,
        vision=vision,
        mm_tokens_per_image=shape.soft_tokens,
        image_token_id=last,
        boi_token_id=last - 1,
        eoi_token_id=last - 2,
        dtype="float32",
    )


def write(directory: Path, shape: Shape = REFERENCE) -> None:
    """Write the checkpoint (the hub's layout, fp32) and the batch; transformers and mlx-vlm read it too."""
    import mlx_medlora.gemma  # noqa: F401  (the fast BLAS comes before MLX)

    # isort: split
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from mlx_medlora.gemma.config import published_config
    from mlx_medlora.gemma.model import build

    directory.mkdir(parents=True, exist_ok=True)
    mx.random.seed(0)
    made = config(shape)
    tensors: dict[str, mx.array] = dict(tree_flatten(build(made).parameters()))
    patches = "vision_tower.vision_model.embeddings.patch_embedding.weight"
    tensors[patches] = mx.contiguous(tensors[patches].transpose(0, 3, 1, 2))  # (D, P, P, C) -> (D, C, P, P)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(published_config(made)))
    save(directory, rows(made, shape.batch))


def rows(config: ModelConfig, batch: Batch) -> Rows:
    """Random rows: `<bos>`, an image, text, and an answer that ends the row."""
    rng = np.random.default_rng(0)
    vision = config.vision
    assert vision is not None
    soft = [config.image_token_id] * config.mm_tokens_per_image
    head = np.tile([config.bos_token_id, config.boi_token_id, *soft, config.eoi_token_id], (batch.rows, 1))
    special = {config.image_token_id, config.boi_token_id, config.eoi_token_id}
    ordinary = np.setdiff1d(np.arange(10, config.text.vocab_size), list(special))
    text = rng.choice(ordinary, (batch.rows, batch.length - head.shape[1]))
    ids = np.concatenate([head, text], axis=1).astype(np.int64)
    supervised = np.zeros(ids.shape, np.bool_)
    supervised[:, batch.length - batch.supervised :] = True
    shape = (batch.rows, vision.num_channels, vision.image_size, vision.image_size)
    return Rows(ids, supervised, rng.uniform(-1, 1, shape).astype(np.float32))


def save(directory: Path, made: Rows) -> None:
    """Put a batch beside its checkpoint."""
    np.savez(directory / FILE, ids=made.ids, supervised=made.supervised, pixels=made.pixels)


def read(directory: Path) -> Rows:
    """The batch that `save` put beside a checkpoint."""
    with np.load(directory / FILE) as stored:
        return Rows(stored["ids"], stored["supervised"], stored["pixels"])
