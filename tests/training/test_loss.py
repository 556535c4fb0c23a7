from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.loss import answer_loss


def reference(model: Base, rows: list[Example], features: FeatureCache) -> tuple[float, int]:
    """Full logits of each row by itself, and cross-entropy on its answer, in numpy and fp64."""
    total, count = 0.0, 0
    for row in rows:
        ids = mx.array(row.ids)[None]
        soft = (ids == model.config.image_token_id).astype(mx.int32)
        seen = mx.stack([features.features[image] for image in row.images]) if row.images else None
        hidden = model.hidden(model.embed(ids, seen), None, soft)
        logits = np.array(model.head(hidden))[0].astype(np.float64)  # (L, V)
        for position in range(1, len(row)):
            if row.supervised[position]:
                scores = logits[position - 1]
                shift = scores.max()
                total += shift + np.log(np.exp(scores - shift).sum()) - scores[row.ids[position]]
                count += 1
    return total, count


def test_it_is_the_cross_entropy_of_full_logits(
    tiny_model: Base, mixed: list[Example], features: FeatureCache
) -> None:
    batch = collate(mixed, features, tiny_model.config)
    expected, count = reference(tiny_model, mixed, features)
    assert batch.supervised == count == 3 + 5 + 2 + 11
    assert answer_loss(tiny_model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_rows_do_not_feel_their_batch(tiny_model: Base, mixed: list[Example], features: FeatureCache) -> None:
    """Padding and neighbours change nothing: the batch's sum is the sum of its rows."""
    whole = answer_loss(tiny_model, collate(mixed, features, tiny_model.config)).item()
    alone = [answer_loss(tiny_model, collate([row], features, tiny_model.config)).item() for row in mixed]
    assert whole == pytest.approx(sum(alone), rel=1e-5)


def test_images_matter_and_in_their_order(
    tiny_model: Base, mixed: list[Example], features: FeatureCache
) -> None:
    row = mixed[2]
    swapped = Example(row.ids, row.supervised, row.images[::-1], row.case_id, row.where)
    losses = [
        answer_loss(tiny_model, collate([r], features, tiny_model.config)).item() for r in (row, swapped)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_text_only_rows_need_no_masks(
    tiny_model: Base, mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate([mixed[0], mixed[0]], features, tiny_config)
    assert batch.attention_mask is None
    assert batch.token_type_ids is None
    expected, _ = reference(tiny_model, [mixed[0]], features)
    assert answer_loss(tiny_model, batch).item() == pytest.approx(2 * expected, rel=1e-5)


def test_the_answers_first_token_is_predicted_from_the_prompts_last(
    mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate([mixed[0]], features, tiny_config)
    length, answer = len(mixed[0]), 3
    assert batch.positions.tolist() == [length - answer - 1 + i for i in range(answer)]
    assert batch.targets.tolist() == mixed[0].ids[-answer:].tolist()
