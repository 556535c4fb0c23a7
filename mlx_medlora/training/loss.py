"""Causal cross-entropy on the supervised tokens alone.

Letters: B rows, L tokens, D width, S supervised tokens, V vocabulary.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import Batch


def answer_loss(model: Base, batch: Batch) -> mx.array:
    """Sum over the batch of -log p(supervised token), in fp32; divide by `batch.supervised` for the mean.

    The head runs only where the next token is supervised: S x V logits for 4B's 262,208 tokens instead of
    B x L x V.
    """
    features = batch.features if batch.pixels is None else model.image_features(batch.pixels)
    embedded = model.embed(batch.input_ids, features)  # (B, L, D)
    hidden = model.hidden(embedded, batch.attention_mask, batch.token_type_ids)  # (B, L, D)
    logits = model.head(hidden[batch.rows, batch.positions]).astype(mx.float32)  # (S, V)
    chosen = mx.take_along_axis(logits, batch.targets[:, None], axis=-1)[:, 0]  # (S,)
    return (mx.logsumexp(logits, axis=-1) - chosen).sum()
