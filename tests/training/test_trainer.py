from __future__ import annotations

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from trainers import QUICK, Adapted, MakeExample, adapter_of, settings, trainer

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.training.events import Accuracy
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache


def test_two_batches_of_two_are_a_batch_of_four(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    """Answers of 3, 5, 2 and 11 tokens: a mean of means would weigh them differently."""
    whole, split = adapted(QUICK), adapted(QUICK)
    one = trainer(whole, mixed, features, QUICK)[0].update([mixed], epoch=1)
    two = trainer(split, mixed, features, QUICK)[0].update([mixed[:2], mixed[2:]], epoch=1)
    assert one.tokens == two.tokens == 21
    assert one.loss == pytest.approx(two.loss, rel=1e-6)
    assert one.gradient_norm == pytest.approx(two.gradient_norm, rel=1e-5)


def test_accumulated_gradients_are_those_of_the_whole(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    """With plain Adam, tiny gradients differ by noise in sign: compare moments instead of weights."""
    moments = []
    for window in ([mixed], [mixed[:2], mixed[2:]]):
        made, _ = trainer(adapted(QUICK), mixed, features, QUICK)
        made.update(window, epoch=1)
        state = dict(tree_flatten(made.stepper.optimizer.state))
        moments.append({name: np.array(value) for name, value in state.items() if name.endswith(".m")})
    assert moments[0].keys() == moments[1].keys()
    assert len(moments[0]) == 2 * 21
    for name, value in moments[0].items():
        np.testing.assert_allclose(value, moments[1][name], atol=2e-5 * np.abs(value).max())


def test_it_learns_by_heart(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    """The frozen random head bounds the logits, and so the loss from below: 0.22, whatever is trained."""
    chosen = settings(epochs=40, batch_size=4, rank=8)
    made, watch = trainer(adapted(chosen), mixed, features, chosen, val=mixed)
    made.run()
    first, last = watch.epochs[0].val_loss, watch.epochs[-1].val_loss
    assert first is not None
    assert last is not None
    assert first > 6
    assert last < 0.3


def test_the_base_stays_as_it_was(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    model = adapted(QUICK)
    before = {name: np.array(array) for name, array in tree_flatten(model.parameters())}
    trainer(model, mixed, features, QUICK)[0].run()
    changed = {n for n, array in tree_flatten(model.parameters()) if not np.array_equal(array, before[n])}
    assert changed == set(adapter_of(model))


@pytest.mark.parametrize("seed", [0, 7])
def test_same_seed_same_bytes(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, tmp_path: Path, seed: int
) -> None:
    chosen = settings(dropout=0.3, seed=seed, accumulate=2)

    def trained(directory: Path, disturbance: int) -> bytes:
        model = adapted(chosen)

        def validate(_: Base) -> Accuracy:
            mx.random.seed(disturbance)
            return Accuracy(float(mx.random.uniform()), None)  # draws random numbers, as a sampler would

        trainer(model, mixed, features, chosen, mixed, validate)[0].run()
        directory.mkdir()
        save_adapter(directory, model, chosen, BaseModelId(id="tiny", fingerprint="0"))
        return (directory / "adapters.safetensors").read_bytes()

    first = trained(tmp_path / "first", 1)
    assert first == trained(tmp_path / "second", 2)
    other = settings(dropout=0.3, seed=seed + 1, accumulate=2)
    model = adapted(chosen)  # the same start, so that only order and dropout differ
    trainer(model, mixed, features, other)[0].run()
    (tmp_path / "third").mkdir()
    save_adapter(tmp_path / "third", model, chosen, BaseModelId(id="tiny", fingerprint="0"))
    assert first != (tmp_path / "third" / "adapters.safetensors").read_bytes()


def fill_b(model: Base) -> None:
    """Give every lora_b values, so that what is dropped before it shows."""
    for name, array in tree_flatten(model.trainable_parameters()):
        if name.endswith("lora_b"):
            model.load_weights([(name, mx.ones_like(array) * 0.05)], strict=False)


def test_dropout_acts_on_a_model_that_was_answering(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    losses = set()
    for dropout in (0.0, 0.5):
        chosen = settings(dropout=dropout)
        model = adapted(chosen)
        fill_b(model)
        model.eval()  # as `load_base` gives it
        made, watch = trainer(model, mixed, features, chosen)
        made.run()
        losses.add(watch.steps[0].loss)
    assert len(losses) == 2


def test_dropout_differs_between_updates_and_batches(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    chosen = settings(dropout=0.5, lr=1e-12)  # the weights as good as stay
    model = adapted(chosen)
    fill_b(model)
    made, _ = trainer(model, mixed, features, chosen)
    first, second = (made.update([mixed], epoch=1).loss for _ in range(2))
    assert first != pytest.approx(second, rel=1e-3)
    again, _ = trainer(model, mixed, features, chosen)
    assert again.update([mixed], epoch=1).loss == pytest.approx(first, rel=1e-6)
    twice, _ = trainer(model, mixed, features, chosen)
    assert twice.update([mixed, mixed], epoch=1).loss != pytest.approx(first, rel=1e-3)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "updates", "rows"), [(1, 1, 5, 1), (2, 2, 2, 1), (1, 3, 2, 2), (5, 1, 1, 5)]
)
def test_the_last_window_of_an_epoch_still_counts(
    adapted: Adapted,
    make_example: MakeExample,
    features: FeatureCache,
    batch_size: int,
    accumulate: int,
    updates: int,
    rows: int,
) -> None:
    chosen = settings(epochs=2, batch_size=batch_size, accumulate=accumulate)
    five = [make_example(f"row{i}") for i in range(5)]
    made, watch = trainer(adapted(chosen), five, features, chosen)
    outcome = made.run()
    assert outcome.steps == made.total == len(watch.steps) == 2 * updates
    for epoch in (1, 2):
        assert sum(step.rows for step in watch.steps if step.epoch == epoch) == 5
    if batch_size == 1:
        assert watch.steps[updates - 1].rows == rows


def test_rates_follow_the_schedule(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    chosen = settings(schedule="linear", warmup=0.5, epochs=4, batch_size=4, lr=1e-3)
    made, watch = trainer(adapted(chosen), mixed, features, chosen)
    made.run()
    assert [step.learning_rate for step in watch.steps] == pytest.approx([0, 5e-4, 1e-3, 5e-4])


def test_clipping_reaches_the_update(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    """AdamW forgets a common factor of all gradients, so look at its first moment."""
    sizes = {}
    for largest in (0.0, 1e-3):
        chosen = settings(clip=largest)
        made, _ = trainer(adapted(chosen), mixed, features, chosen)
        norm = made.update([mixed], epoch=1).gradient_norm
        moments = [np.array(v) for n, v in tree_flatten(made.stepper.optimizer.state) if n.endswith(".m")]
        sizes[largest] = math.sqrt(sum(float((moment**2).sum()) for moment in moments)) / 0.1
        assert norm > 1e-3
    assert sizes[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert sizes[0.0] == pytest.approx(norm, rel=1e-4)


def test_nan_stops_before_the_update(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    one = mixed[1].images[0]
    features.features[one] = features.features[one] * math.nan
    model = adapted(QUICK)
    before = adapter_of(model)
    made, watch = trainer(model, mixed[1:2], features, QUICK)
    with pytest.raises(
        MedloraError, match=r"the loss is nan at update 1, epoch 1; row: train.jsonl:one \(case one\)"
    ) as caught:
        made.run()
    assert caught.value.exit_code == 1
    assert "--lr" in (caught.value.hint or "")
    assert watch.saves == []
    assert all(np.array_equal(before[name], value) for name, value in adapter_of(model).items())


def test_an_infinite_gradient_stops_too(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    made, _ = trainer(adapted(QUICK), mixed, features, QUICK)
    found = made.stepper.gradient
    made.stepper.gradient = lambda arrays: (
        found(arrays)[0],
        tree_map(lambda gradient: gradient + math.inf, found(arrays)[1]),
    )
    with pytest.raises(
        MedloraError,
        match=r"gradient is inf at update 1, epoch 1; row: train.jsonl:text \(case text\), train",
    ):
        made.update([mixed[:2]], epoch=1)


def test_no_examples_are_refused(adapted: Adapted, features: FeatureCache) -> None:
    with pytest.raises(InputError, match="no training examples"):
        trainer(adapted(QUICK), [], features, QUICK)


def test_a_text_only_model_trains(
    tiny_config: object, make_example: MakeExample, features: FeatureCache
) -> None:
    from mlx_medlora.gemma.config import ModelConfig
    from mlx_medlora.gemma.model import build
    from mlx_medlora.lora.layers import attach

    assert isinstance(tiny_config, ModelConfig)
    mx.random.seed(1)
    model = build(tiny_config.model_copy(update={"vision": None}))
    attach(model, QUICK.lora)
    made, watch = trainer(model, [make_example("a"), make_example("b")], features, settings(epochs=8))
    made.run()
    assert watch.steps[-1].loss < watch.steps[0].loss / 2
