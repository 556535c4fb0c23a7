"""What is validated, kept as the best and ended early."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest
from trainers import QUICK, Adapted, adapter_of, settings, trainer

from mlx_medlora.errors import InputError, NotANumber
from mlx_medlora.training.events import Accuracy, Epoch, Plan
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.trainer import Trainer


def test_epoch_0_is_the_base(adapted: Adapted, mixed: list[Example], features: FeatureCache) -> None:
    made, watch = trainer(
        adapted(QUICK), mixed, features, QUICK, val=mixed, validate=lambda _: Accuracy(0.25, (0.1, 0.5))
    )
    made.run()
    assert isinstance(watch.events[0], Plan)
    first = watch.events[1]
    assert isinstance(first, Epoch)
    assert (first.epoch, first.train_loss, first.val_accuracy, first.best) == (0, None, 0.25, False)
    assert first.val_accuracy_interval == (0.1, 0.5)
    assert first.perplexity == pytest.approx(math.exp(first.val_loss or 0))
    assert [epoch.epoch for epoch in watch.epochs] == [0, 1, 2]
    assert watch.events[0].trainable == sum(array.size for array in adapter_of(made.model).values())


def losses(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let validation find these losses, epoch 0 first."""
    found = iter(values)
    monkeypatch.setattr(Trainer, "validation_loss", lambda self, epoch: next(found))


def test_best_and_last(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 1.0, 3.0, 2.0, 2.0, 2.5)
    chosen = settings(epochs=4)
    made, watch = trainer(adapted(chosen), mixed, features, chosen, val=mixed)
    outcome = made.run()
    assert outcome.best_epoch == 2, "the first of equal losses; epoch 0 has no adapter to keep"
    assert [epoch.best for epoch in watch.epochs] == [False, True, True, False, False]
    assert watch.saves == ["last", "best", "last", "best", "last", "last"]


@pytest.mark.parametrize(
    ("patience", "trained", "early"), [(1, 3, True), (2, 4, True), (3, 5, False), (None, 5, False)]
)
def test_patience(
    adapted: Adapted,
    mixed: list[Example],
    features: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
    patience: int | None,
    trained: int,
    early: bool,
) -> None:
    losses(monkeypatch, 9.0, 3.0, 2.0, 2.1, 2.2, 2.3)
    chosen = settings(epochs=5, patience=patience)
    outcome = trainer(adapted(chosen), mixed, features, chosen, val=mixed)[0].run()
    assert (outcome.epochs[-1].epoch, outcome.stopped_early, outcome.best_epoch) == (trained, early, 2)


def test_an_overflowing_perplexity_is_none(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses(monkeypatch, 800.0, 800.0, 1.0)
    outcome = trainer(adapted(QUICK), mixed, features, QUICK, val=mixed)[0].run()
    assert [epoch.perplexity for epoch in outcome.epochs] == [None, None, pytest.approx(math.e)]


def test_without_validation_the_last_is_the_best(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    made, watch = trainer(adapted(QUICK), mixed, features, QUICK, validate=lambda _: Accuracy(1.0, None))
    outcome = made.run()
    assert outcome.best_epoch == 2
    assert watch.saves == ["last", "best"] * 2
    assert all((epoch.val_loss, epoch.val_accuracy) == (None, None) for epoch in watch.epochs)


def test_validation_has_no_dropout_and_training_goes_on_with_it(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    chosen = settings(dropout=0.5)
    modes = []
    made, watch = trainer(
        adapted(chosen), mixed, features, chosen, mixed, lambda model: modes.append(model.training)
    )
    made.run()
    assert modes == [False, False, False]
    assert made.validation_loss(2) == watch.epochs[-1].val_loss


def test_patience_without_validation_is_refused(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    with pytest.raises(InputError, match="patience needs a validation split"):
        trainer(adapted(QUICK), mixed, features, settings(patience=1))


def test_no_number_on_another_rank_is_none_on_this_one(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no rank saves what another one found spoilt; the rows are named where they are."""
    monkeypatch.setattr(Ranks, "total", lambda self, value, count: (math.nan, count))
    made, _ = trainer(adapted(QUICK), mixed, features, QUICK, val=mixed)
    with pytest.raises(NotANumber, match=r"^the validation loss is nan at epoch 0$"):
        made.run()


def test_the_rows_without_a_number_are_named(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = trainer(adapted(QUICK), mixed, features, QUICK, val=mixed)
    monkeypatch.setattr("mlx_medlora.training.trainer.answer_loss", lambda *_, **__: mx.array(math.inf))
    with pytest.raises(NotANumber, match=r"^the validation loss is inf at epoch 0; among the rows "):
        made.run()
