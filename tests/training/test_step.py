"""The compiled step, its shapes, and gradient checkpointing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.dropout import batch_keys, keyed
from mlx_medlora.lora.layers import LoraLinear, attach
from mlx_medlora.training import step as step_module
from mlx_medlora.training.batches import collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, PixelSource
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.ranks import Ranks, Share, Tree
from mlx_medlora.training.schedule import Course
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.trainer import Trainer


class NoisePixels(PixelSource):
    """Noise for any image."""

    def __init__(self, config: ModelConfig) -> None:
        assert config.vision is not None
        self.side, self.features = config.vision.image_size, {}

    def stack(self, files: Sequence[Path]) -> mx.array:
        return mx.random.normal((len(files), 3, self.side, self.side), key=mx.random.key(len(files)))


Adapted = Callable[[TrainSettings], Base]
PLAIN = TrainSettings(rank=2, dropout=0.0, epochs=4, batch_size=2, lr=1e-2)


def trained(model: Base) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in tree_flatten(model.trainable_parameters())}


def run(adapted: Adapted, rows: list[Example], features: FeatureCache, settings: TrainSettings) -> Trainer:
    made = Trainer(adapted(settings), rows, [], features, settings, save=lambda kind: None)
    made.run()
    return made


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "shards"), [(4, 1, 1), (2, 1, 2), (1, 4, 1), (4, 3, 1), (3, 2, 2)]
)
def test_nothing_is_traced_again_after_the_first_epoch(
    adapted: Adapted,
    make_example: Callable[..., Example],
    features: FeatureCache,
    batch_size: int,
    accumulate: int,
    shards: int,
) -> None:
    """Rows of many shapes, whose batches change places in their windows from epoch to epoch.

    Their number fits neither batches nor windows: an epoch's last window is another batch each time.
    """
    rows = [
        make_example(chr(97 + i), prompt=9 + 3 * (i % 8), answer=2 + i % 3, images=i % 3) for i in range(25)
    ]
    settings = PLAIN.model_copy(
        update={"batch_size": batch_size, "accumulate": accumulate, "dropout": 0.3, "epochs": 5}
    )
    made = Trainer(adapted(settings), rows, [], features, settings, save=lambda kind: None, shards=shards)
    counts = []
    for epoch in range(1, 6):
        made.place.epoch, made.place.updates = epoch, 0
        made._epoch()
        counts.append(made.stepper.traces)
    assert len(set(counts)) == 1
    assert counts[0] > 3


class OneOfTwo(Ranks):
    """A rank whose other one adds nothing."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank, self.size = rank, 2

    def sum(self, shares: Sequence[Share | None], tokens: int, like: Tree) -> tuple[Tree, float, int]:
        return like if shares[0] is None else shares[0][1], 1.0, tokens + 1


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 3), (2, 4)])
def test_no_rank_traces_again_either(
    adapted: Adapted,
    make_example: Callable[..., Example],
    features: FeatureCache,
    batch_size: int,
    accumulate: int,
    rank: int,
) -> None:
    """The last batch has one row: were the next batch to begin at the other rank, its images would change."""
    rows = [
        make_example(chr(97 + i), prompt=9 + 3 * (i % 8), answer=2 + i % 3, images=i % 3) for i in range(25)
    ]
    settings = PLAIN.model_copy(update={"batch_size": batch_size, "accumulate": accumulate, "epochs": 8})
    ranks = OneOfTwo(rank)
    made = Trainer(adapted(settings), rows, [], features, settings, save=lambda kind: None, ranks=ranks)
    counts = []
    for epoch in range(1, 9):
        made.place.epoch, made.place.updates = epoch, 0
        made._epoch()
        counts.append(made.stepper.traces)
    assert len(set(counts)) == 1


@pytest.mark.parametrize(("accumulate", "alone"), [(1, True), (3, False)])
def test_only_without_accumulation_an_update_is_one_function(
    adapted: Adapted,
    mixed: list[Example],
    features: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
    accumulate: int,
    alone: bool,
) -> None:
    """And both ways give the same adapter for a window of a single batch."""
    rows, trees, whole = mixed[:1] * 2, [], []
    for settings in (PLAIN, PLAIN.model_copy(update={"accumulate": accumulate})):
        settings = settings.model_copy(update={"dropout": 0.3, "lr": 2e-4})
        made = Trainer(adapted(settings), mixed, [], features, settings, save=lambda kind: None)
        made.model.train()
        made.stepper.course = Course.whole(9, 0)  # the same rates
        step = made.stepper._step
        counted = lambda *given, step=step: (whole.append(1), step(*given))[1]  # noqa: E731
        monkeypatch.setattr(made.stepper, "_step", counted)
        for _ in range(3):
            made.update([rows], 1)
        trees.append(trained(made.model))
    assert len(whole) == (6 if alone else 3)
    for name, values in trees[0].items():
        np.testing.assert_allclose(trees[1][name], values, rtol=0, atol=1e-6)


def test_a_step_that_raises_leaves_all_as_it_was(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Trainer(adapted(PLAIN), mixed, [], features, PLAIN, save=lambda kind: None)
    before = trained(made.model)
    plain = step_module.answer_loss

    def broken(model: Base, *given: object, **more: object) -> mx.array:
        raise RuntimeError("no")

    monkeypatch.setattr(step_module, "answer_loss", broken)
    with pytest.raises(RuntimeError, match="no"):
        made.update([mixed], 1)
    assert all(np.array_equal(before[name], value) for name, value in trained(made.model).items())
    monkeypatch.setattr(step_module, "answer_loss", plain)
    assert made.update([mixed], 1).loss > 0


@pytest.mark.parametrize("images", [(1, 0), (2, 1), (0, 2)])
def test_a_trained_towers_dropout_goes_by_image(
    tiny_config: ModelConfig, make_example: Callable[..., Example], images: tuple[int, ...]
) -> None:
    """Rows with unlike numbers of images; an image's mask does not feel the other rows of the batch."""
    settings = PLAIN.model_copy(update={"vision": True, "dropout": 0.5, "target": ("q_proj",)})
    model = build(tiny_config)
    attach(model, settings, seed=0)
    made = Trainer(
        model,
        [make_example(name, images=count) for name, count in zip("ab", images, strict=True)],
        [],
        NoisePixels(tiny_config),
        settings,
        save=lambda kind: None,
    )
    assert made.update([made.train], 1).loss > 0
    layer = model.vision_tower.vision_model.encoder.layers[0].self_attn.q_proj
    x = mx.ones((sum(images), 4, 32))
    masks = []
    for rows, counts, part in ((range(2), images, x), (range(1, 2), images[1:], x[images[0] :])):
        with keyed(model, batch_keys(0, 0, 0, rows, counts)):
            masks.append(layer.dropout(part))
    assert mx.array_equal(masks[0][images[0] :], masks[1])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_compiled_and_plain_steps_train_the_same_adapter(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, dropout: float
) -> None:
    settings = PLAIN.model_copy(update={"accumulate": 2, "dropout": dropout, "lr": 2e-4})
    compiled = trained(run(adapted, mixed, features, settings).model)
    mx.disable_compile()
    try:
        plain = trained(run(adapted, mixed, features, settings).model)
    finally:
        mx.enable_compile()
    start = trained(adapted(settings))
    for name, values in plain.items():
        np.testing.assert_allclose(compiled[name], values, atol=1e-6)
        assert not np.array_equal(values, start[name])


def gradients(
    model: Base, rows: list[Example], features: FeatureCache, recompute: bool
) -> dict[str, np.ndarray]:
    arrays = collate(rows, features, model.config).arrays
    with keyed(model, batch_keys(0, 0, 0, range(len(rows)))):
        _, found = nn.value_and_grad(model, answer_loss)(model, arrays, recompute)
    return {name: np.array(value) for name, value in tree_flatten(found)}


@pytest.mark.parametrize("target", [("q_proj", "v_proj", "o_proj"), ("down_proj", "q_proj")])
def test_checkpointing_changes_no_gradient(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, target: tuple[str, ...]
) -> None:
    """With dropout: the second computation must draw the masks of the first."""
    model = adapted(TrainSettings(rank=2, dropout=0.4, target=target))
    model.train()
    for _, module in model.named_modules():
        if isinstance(module, LoraLinear):
            module.lora_b = mx.random.normal(module.lora_b.shape, key=mx.random.key(1)) * 0.1
    kept = gradients(model, mixed, features, recompute=False)
    again = gradients(model, mixed, features, recompute=True)
    for name, values in kept.items():
        # the five gradients that meet at a layer's input are added in another order
        np.testing.assert_allclose(again[name], values, rtol=0, atol=3e-6 * np.abs(values).max())
        assert np.abs(values).max() > 0


def test_checkpointing_trains_the_same_adapter(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    found = []
    for choice in ("off", "on"):
        settings = PLAIN.model_copy(update={"grad_checkpoint": choice, "dropout": 0.3, "lr": 2e-4})
        found.append(trained(run(adapted, mixed, features, settings).model))
    for name, values in found[0].items():
        np.testing.assert_allclose(found[1][name], values, rtol=0, atol=1e-6)


def test_checkpointing_holds_less(tiny_config: ModelConfig, make_example: Callable[..., Example]) -> None:
    """Thirty layers, so that what one layer needs while it is at work does not matter."""
    text = tiny_config.text.model_copy(
        update={"num_hidden_layers": 30, "layer_types": ("sliding_attention",) * 30}
    )
    deep = tiny_config.model_copy(update={"text": text})
    rows = [make_example(name, prompt=120) for name in "abcd"]
    peaks = {}
    for choice in ("off", "on"):
        settings = PLAIN.model_copy(update={"grad_checkpoint": choice, "batch_size": 4})
        model = build(deep)
        attach(model, settings, seed=0)
        made = Trainer(model, rows, [], FeatureCache(), settings, save=lambda kind: None)
        made.update([rows], 1)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        made.update([rows], 1)
        peaks[choice] = mx.get_peak_memory() - before
    assert peaks["on"] < 0.45 * peaks["off"]


def test_no_copy_of_a_packed_weight_is_made(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, tmp_path: object
) -> None:
    """The graph of loss and gradients multiplies with packed words, and never unpacks a matrix."""
    model = adapted(PLAIN)
    nn.quantize(
        model.language_model, 32, 4, class_predicate=lambda name, m: type(m) in (nn.Linear, nn.Embedding)
    )
    arrays = collate(mixed, features, model.config).arrays
    value, found = nn.value_and_grad(model, answer_loss)(model, arrays)
    stream = tmp_path / "graph.dot"  # type: ignore[operator]
    mx.export_to_dot(str(stream), value, *(g for _, g in tree_flatten(found)))
    text = stream.read_text()
    assert text.count("QuantizedMatmul") > 7 * 7
    # one row each for the tokens of the batch: the embedding's look-up unpacks those alone
    assert text.count("AffineQuantize") + text.count("Dequantize") <= 1


def test_a_rows_dropout_does_not_feel_its_batch() -> None:
    """Rank 1 of 2 holds rows 1 and 3 of a batch of 4."""
    layer = LoraLinear(nn.Linear(6, 6), 2, 1.0, 0.5, mx.random.key(0))
    x = mx.ones((4, 3, 6))
    with keyed(layer, batch_keys(1, 2, 0, range(4))):
        whole = layer.dropout(x)
    with keyed(layer, batch_keys(1, 2, 0, range(1, 4, 2))):
        part = layer.dropout(x[1::2])
    assert mx.array_equal(part, whole[1::2])
    assert not mx.array_equal(whole[0], whole[1])
    assert layer.dropout.keys is None
