"""How many floating-point operations the model takes, counted from its geometry.

A product of (m, k) and (k, n) counts 2 m k n; what is not a matrix product (norms, rotations, softmax) is
left out, under 1 % of the whole. Letters: L tokens of a row, S supervised tokens of it, V vocabulary.
"""

from __future__ import annotations

from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig

Shape = tuple[int, int]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
KEYS = ("k_proj", "v_proj")  # in the last layer these alone run at every position


def text_shapes(text: TextConfig) -> dict[str, Shape]:
    """(in, out) of each matrix of one decoder layer, by its name."""
    width, mlp = text.hidden_size, text.intermediate_size
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    return {
        "q_proj": (width, queries),
        "k_proj": (width, keys),
        "v_proj": (width, keys),
        "o_proj": (queries, width),
        "gate_proj": (width, mlp),
        "up_proj": (width, mlp),
        "down_proj": (mlp, width),
    }


def vision_shapes(vision: VisionConfig) -> dict[str, Shape]:
    """(in, out) of each matrix of one layer of SigLIP's tower, by its name."""
    width, mlp = vision.hidden_size, vision.intermediate_size
    square = dict.fromkeys(("q_proj", "k_proj", "v_proj", "out_proj"), (width, width))
    return square | {"fc1": (width, mlp), "fc2": (mlp, width)}


def layer_flops(text: TextConfig, keys: int, queries: int) -> int:
    """Matrices of one decoder layer: `keys` positions attended to, of which `queries` go on."""
    return sum(
        2 * inputs * outputs * (keys if name in KEYS else queries)
        for name, (inputs, outputs) in text_shapes(text).items()
    )


def attention_flops(text: TextConfig, keys: int, queries: int) -> int:
    """Scores and their sums of values in one layer, as computed: masked positions cost as much as others."""
    return 4 * keys * queries * text.num_attention_heads * text.head_dim


def head_flops(text: TextConfig, positions: int) -> int:
    """Logits over the vocabulary at `positions`."""
    return 2 * positions * text.hidden_size * text.vocab_size


def tower_layer_flops(vision: VisionConfig) -> int:
    """One layer of SigLIP's tower over one image: matrices and full attention among its patches."""
    patches = vision.patches_per_side**2
    matrices = sum(2 * inputs * outputs * patches for inputs, outputs in vision_shapes(vision).values())
    return matrices + 4 * patches**2 * vision.hidden_size


def tower_flops(config: ModelConfig) -> int:
    """Tower and projector for one image; 0 for a text-only model."""
    vision = config.vision
    if vision is None:
        return 0
    patch = vision.num_channels * vision.patch_size**2
    patches = 2 * vision.patches_per_side**2 * patch * vision.hidden_size
    projector = 2 * config.mm_tokens_per_image * vision.hidden_size * config.text.hidden_size
    return patches + vision.num_hidden_layers * tower_layer_flops(vision) + projector
