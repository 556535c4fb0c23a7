from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.text import MLP
from mlx_medlora.training.batches import Arrays, Shape, collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.settings import TrainSettings


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
    assert answer_loss(tiny_model, batch.arrays).item() == pytest.approx(expected, rel=1e-5)


def test_rows_do_not_feel_their_batch(tiny_model: Base, mixed: list[Example], features: FeatureCache) -> None:
    """Padding and neighbours change nothing: the batch's sum is the sum of its rows."""
    whole = answer_loss(tiny_model, collate(mixed, features, tiny_model.config).arrays).item()
    alone = [
        answer_loss(tiny_model, collate([row], features, tiny_model.config).arrays).item() for row in mixed
    ]
    assert whole == pytest.approx(sum(alone), rel=1e-5)


def test_images_matter_and_in_their_order(
    tiny_model: Base, mixed: list[Example], features: FeatureCache
) -> None:
    row = mixed[2]
    swapped = Example(row.ids, row.supervised, row.images[::-1], row.case_id, row.where)
    losses = [
        answer_loss(tiny_model, collate([r], features, tiny_model.config).arrays).item()
        for r in (row, swapped)
    ]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_text_only_rows_need_no_masks(
    tiny_model: Base, mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate([mixed[0], mixed[0]], features, tiny_config)
    assert batch.arrays.token_type_ids is None
    expected, _ = reference(tiny_model, [mixed[0]], features)
    assert answer_loss(tiny_model, batch.arrays).item() == pytest.approx(2 * expected, rel=1e-5)


def test_the_answers_first_token_is_predicted_from_the_prompts_last(
    mixed: list[Example], features: FeatureCache, tiny_config: ModelConfig
) -> None:
    batch = collate([mixed[0]], features, tiny_config)
    length, answer = len(mixed[0]), 3
    assert batch.arrays.positions.tolist() == [[length - answer - 1 + i for i in range(answer)]]
    assert batch.arrays.targets.tolist() == [mixed[0].ids[-answer:].tolist()]


def test_a_wider_shape_changes_nothing(
    tiny_model: Base, mixed: list[Example], features: FeatureCache
) -> None:
    """Padded tokens and padded places of supervised tokens count nothing."""
    own = collate(mixed, features, tiny_model.config)
    wide = collate(mixed, features, tiny_model.config, Shape(40, 17))
    assert wide.arrays.input_ids.shape == (4, 40)
    assert wide.arrays.weights.sum().item() == own.supervised == wide.supervised
    found = [answer_loss(tiny_model, batch.arrays).item() for batch in (own, wide)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def grads(model: Base, arrays: Arrays, **options: object) -> dict[str, np.ndarray]:
    _, found = nn.value_and_grad(model, answer_loss)(model, arrays, **options)
    return {name: np.array(value) for name, value in tree_flatten(found)}


@pytest.mark.parametrize("packed", [False, True])
def test_pieces_of_the_vocabulary_give_the_same_loss_and_gradients(
    adapted: Callable[[TrainSettings], Base], mixed: list[Example], features: FeatureCache, packed: bool
) -> None:
    """320 columns in pieces of at most 60: the last one is shorter."""
    model = adapted(TrainSettings(rank=2, dropout=0, save_modules=() if packed else ("lm_head",)))
    if packed:
        nn.quantize(model, 32, 8, class_predicate=lambda name, _: name.endswith("embed_tokens"))
    arrays = collate(mixed, features, model.config).arrays
    whole = answer_loss(model, arrays)
    pieces = answer_loss(model, arrays, most=arrays.targets.size * 60)
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-6)
    wanted, found = grads(model, arrays), grads(model, arrays, most=arrays.targets.size * 60)
    assert wanted.keys() == found.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, atol=2e-6 * max(1, np.abs(values).max()))


def test_only_supervised_positions_are_computed_in_the_last_layer_and_the_head(
    tiny_model: Base, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    plain = MLP.inner

    def listen(self: MLP, x: mx.array) -> mx.array:
        lengths.append(x.shape[1])
        return plain(self, x)

    monkeypatch.setattr(MLP, "inner", listen)
    arrays = collate(mixed, features, tiny_model.config).arrays
    answer_loss(tiny_model, arrays)
    assert lengths == [arrays.input_ids.shape[1]] * 6 + [11]
