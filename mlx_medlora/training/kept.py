"""What one layer's forward pass must keep for its backward pass, byte by byte.

Frozen matrices keep nothing: the gradient of their input needs only the weight. What is kept is the input
of each norm, of each elementwise product, of the attention and of each low-rank update. Letters: n positions
(rows times tokens, padding included), q of them that go on (fewer in the last layer), D, H, G, E, M the
widths as in `gemma/text.py`, r the rank, w bytes of a number in the model's dtype, p patches.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_medlora.gemma.config import TextConfig, VisionConfig
from mlx_medlora.gemma.counts import KEYS, text_shapes, vision_shapes

FP32 = 4
_MASK = 1  # dropout keeps a boolean for each input
KEPT_SCORES, SCORES = 1 << 21, 1 << 22  # as in `gemma/attention.py`
# The exponential of fp32 on the CPU is a polynomial in several kernels, each with an array of its own: what
# the gated GELU's and a recomputed softmax's gradients take beside their results, fitted to measured peaks.
_GELU_PIECES, _SOFTMAX_PIECES = 5.5, 4.5


def text_layer(
    text: TextConfig, kinds: Sequence[str], rank: int, dropout: float, w: int, n: int, q: int, length: int
) -> int:
    """Bytes that one decoder layer keeps; `kinds` names its adapted matrices.

    RMSNorm computes in fp32, so it keeps its input in fp32 whatever the dtype.
    """
    wide, mlp = text.hidden_size, text.intermediate_size
    heads, groups = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    norms = FP32 * (wide * (n + 3 * q) + heads * q + groups * n)  # four of D, queries', keys'
    attention = w * (heads * q + 2 * groups * n + kept_scores(text.num_attention_heads, w, n, q, length))
    gated = 2 * w * mlp * q
    return norms + attention + gated + updates(text_shapes(text), kinds, rank, dropout, w, n, q)


def kept_scores(heads: int, w: int, n: int, q: int, length: int) -> int:
    """Attention scores of a layer that are kept: all, or in fp32 on the CPU those of small pieces."""
    each = heads * n  # scores of one query position in every row
    queries = q * length // n
    if w != FP32:
        return each * queries
    piece = max(1, SCORES // each)
    whole, rest = divmod(queries, piece)
    pieces = [piece * each] * whole + [rest * each]
    return sum(size for size in pieces if size <= KEPT_SCORES)


def checkpointed_layer(text: TextConfig, kinds: Sequence[str], w: int, n: int, q: int) -> int:
    """Bytes that a decoder layer keeps with gradient checkpointing.

    What enters it, what enters its MLP, and its last product's result.

    The result is not kept where that product is trained: it is then computed again with the rest.
    """
    wide = text.hidden_size
    product = 0 if "down_proj" in kinds else FP32 * wide * q  # as the norm after it keeps it
    return w * wide * (n + q) + product


def updates(
    shapes: dict[str, tuple[int, int]],
    kinds: Sequence[str],
    rank: int,
    dropout: float,
    w: int,
    n: int,
    q: int,
) -> int:
    """Bytes kept by the low-rank updates: dropped inputs, dropout's masks, and what A gives to B.

    Without dropout, matrices that read the same input keep it once.
    """
    total, shared = 0, set()
    for kind in kinds:
        positions = n if kind in KEYS else q
        inputs = shapes[kind][0]
        total += w * rank * positions
        if dropout:
            total += (w + _MASK) * inputs * positions
        else:
            shared.add((_reads(kind), w * inputs * positions))
    return total + sum(size for _, size in shared)


def _reads(kind: str) -> str:
    """A name for what a matrix reads."""
    if kind in ("q_proj", "k_proj", "v_proj"):
        return "normed input of attention"
    return "normed input of the MLP" if kind in ("gate_proj", "up_proj", "fc1") else kind


def tower_layer(
    vision: VisionConfig, kinds: Sequence[str], rank: int, dropout: float, w: int, images: int
) -> int:
    """Bytes that one layer of SigLIP's tower keeps where the tower is trained: scores above all."""
    patches = vision.patches_per_side**2
    n = images * patches
    wide = w * vision.hidden_size * n
    scores = w * vision.num_attention_heads * patches * n
    gelu = w * vision.intermediate_size * n * (2 if w == FP32 else 1)
    adapted = updates(vision_shapes(vision), kinds, rank, dropout, w, n, n)
    return 6 * wide + scores + gelu + adapted  # two norms' inputs, q as projected and as scaled, k, v


def text_backward(text: TextConfig, w: int, n: int, length: int) -> int:
    """Bytes that the backward pass of one decoder layer allocates beside what was kept.

    MLX hands out memory about a hundred operations ahead of their execution, on the CPU backend ten tasks of
    ten; that is about one layer, so nothing of the layer counts as freed when its last array is allocated.
    """
    norms = 12 * FP32 * text.hidden_size  # and the sums and residuals around them
    widened = FP32 * (_GELU_PIECES if w == FP32 else 5)  # the gradient is taken in fp32: three in, two out
    gated = (3 * w + widened) * text.intermediate_size
    heads = text.num_attention_heads
    scores = heads * n * length
    # pieces of the forward pass wait for one another, those of the backward pass do not
    copies = 2 + (_SOFTMAX_PIECES if w == FP32 and scores > KEPT_SCORES else 0)
    return round(n * (norms + gated + w * 6 * heads * text.head_dim) + w * copies * scores)


def text_again(
    text: TextConfig, kinds: Sequence[str], rank: int, dropout: float, w: int, n: int, length: int
) -> int:
    """Bytes that a checkpointed layer's backward pass allocates, at its MLP or at its attention.

    Each is computed again and then led back; what the first held is free before the second begins, since the
    gradient goes on only when the layer's own are there. Counted in arrays as large as the hidden states, the
    MLP's inner ones, the queries and the scores; how many of each is fitted to measured peaks.
    """
    each = n * (w + FP32) / 2  # recomputed in the model's dtype, led back in fp32
    wide, heads = text.hidden_size, text.num_attention_heads
    queries, scores = heads * text.head_dim, heads * length
    of_mlp = [kind for kind in kinds if kind in ("gate_proj", "up_proj", "down_proj")]
    inner = 14 if "down_proj" in kinds else 10  # where it is trained, its own product is computed again too
    mlp = each * (24 * wide + inner * text.intermediate_size + 8 * queries)
    mlp += updates(text_shapes(text), of_mlp, rank, dropout, w, n, n)
    if w != FP32:
        attention = each * (14 * wide + 17 * queries) + n * 4 * w * scores
    elif n * scores <= KEPT_SCORES:
        attention = each * (14 * wide + 17 * queries + 8.6 * scores)
    else:
        attention = each * (3 * wide + 31 * queries + 6.6 * scores) + 5.7 * w * min(n * scores, SCORES)
    return round(max(mlp, attention))


def tower_forward(vision: VisionConfig, w: int, *, fused: bool) -> int:
    """Bytes that the tower's forward pass holds at once over one image, for about one layer.

    `fused`: attention without the scores of all patches at once.
    """
    patches = vision.patches_per_side**2
    scores = 0 if fused else 2 * vision.num_attention_heads * patches
    pixels = 2 * FP32 * vision.num_channels * vision.image_size**2
    per_patch = 8 * vision.hidden_size + 2 * vision.intermediate_size + scores
    return w * patches * per_patch + pixels
