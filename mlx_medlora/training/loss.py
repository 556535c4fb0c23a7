"""Causal cross-entropy on the supervised tokens alone.

Letters: B rows, L tokens, Q supervised tokens of a row, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from mlx_medlora.gemma.elementwise import cross_entropy, log_sum_exp
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.text import Matrix
from mlx_medlora.training.batches import Arrays

_LOGITS = 1 << 26  # logits in one piece: 256 MiB in fp32


def answer_loss(
    model: Base, arrays: Arrays, recompute: bool = False, *, first: int = 0, most: int = _LOGITS
) -> mx.array:
    """Sum over the batch of -log p(supervised token), in fp32; divide by their number for the mean.

    The last layer's queries, output projection and MLP, and the head, run only where the next token is
    supervised: B x Q x V logits for 4B's 262,208 tokens instead of B x L x V. Where even those are more than
    `most`, they are taken in pieces of the vocabulary, and computed again for the gradient. `recompute` is
    gradient checkpointing of the layers; `first` is the one that `arrays.hidden` enters.
    """
    entering = arrays.hidden  # (B, L, D)
    if entering is None:
        features = arrays.features if arrays.pixels is None else model.image_features(arrays.pixels)
        entering = model.embed(arrays.input_ids, features)
    hidden = model.hidden(
        entering,
        token_type_ids=arrays.token_type_ids,
        wanted=arrays.positions,
        first=0 if arrays.hidden is None else first,
        recompute=recompute,
    )  # (B, Q, D)
    vocabulary = model.config.text.vocab_size
    if arrays.targets.size * vocabulary <= most:
        losses = cross_entropy(model.head(hidden).astype(mx.float32), arrays.targets)
    else:
        losses = _in_pieces(model, hidden, arrays.targets, max(1, most // arrays.targets.size))
    return (losses * arrays.weights).sum()


def _in_pieces(model: Base, hidden: mx.array, targets: mx.array, width: int) -> mx.array:
    """(B, Q) losses from `width` columns of the logits at a time."""
    sums, chosen = [], mx.zeros(targets.shape)
    for start in range(0, model.config.text.vocab_size, width):
        matrix = model.head_rows(start, start + width)
        piece = mx.checkpoint(partial(_piece, model, start=start))
        own, right = piece(hidden, targets, matrix)
        sums.append(own)
        chosen = chosen + right
    return log_sum_exp(mx.stack(sums, axis=-1)) - chosen


def _piece(
    model: Base, hidden: mx.array, targets: mx.array, matrix: Matrix, *, start: int
) -> tuple[mx.array, mx.array]:
    """(B, Q) logarithm of the sum over this piece's columns; the target's logit, 0 if it is elsewhere."""
    logits = model.head_of(hidden, matrix).astype(mx.float32)  # (B, Q, width)
    place = mx.stop_gradient(targets - start)
    inside = (place >= 0) & (place < logits.shape[-1])
    found = mx.take_along_axis(logits, mx.where(inside, place, 0)[..., None], axis=-1)[..., 0]
    return log_sum_exp(logits), mx.where(inside, found, 0)
