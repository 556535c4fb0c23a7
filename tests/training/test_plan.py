"""Plans against real rows, real steps and sums worked by hand."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig, TextConfig, read_config
from mlx_medlora.gemma.geometry import GEOMETRIES
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.processor import Encoder, load_processor
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.batches import collate
from mlx_medlora.training.buckets import costliest
from mlx_medlora.training.choose import choose, fits, ladder, usable, wants_checkpointing
from mlx_medlora.training.examples import Example, build_examples
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.lengths import Lengths, read_lengths
from mlx_medlora.training.memory import predict_memory
from mlx_medlora.training.plan import GB, make_plan
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import RowShape, adapter_shape, row_shapes
from mlx_medlora.training.step import Stepper
from mlx_medlora.training.work import row_work

CARD = TrainSettings()
ROWS = Lengths(train=(RowShape(405, 12, 1),) * 16, val=(RowShape(380, 10, 1),) * 8, images=8, tokenised=24)
FOUR, LARGE = GEOMETRIES["medgemma-4b"], GEOMETRIES["medgemma-27b"]
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_a_row_of_400_tokens_costs_what_facts_say() -> None:
    adapter = adapter_shape(FOUR, CARD)
    assert adapter.parameters == 6_963_200
    row = row_work(FOUR, adapter, RowShape(400, 400, 1), checkpointing=False)
    assert row.tower / 1e12 == pytest.approx(5.5, abs=0.05)
    assert (row.forward + row.backward) / 1e12 == pytest.approx(5.1, abs=0.05)
    assert row.head / 1e12 == pytest.approx(1.1, abs=0.05)
    few = row_work(FOUR, adapter, RowShape(400, 8, 1), checkpointing=False)
    assert few.head == row.head / 50
    assert few.forward < row.forward  # the last layer goes on at supervised tokens alone


def test_checkpointing_computes_the_forward_again_but_for_the_last_product() -> None:
    adapter = adapter_shape(FOUR, CARD)
    off, on = (row_work(FOUR, adapter, RowShape(400, 8, 1), checkpointing=c) for c in (False, True))
    down = 2 * 2560 * 10240 * (33 * 400 + 8)
    assert on.recomputed == off.forward + off.attention / 3 - down
    trained = adapter_shape(FOUR, TrainSettings(target=("down_proj",)))
    again = row_work(FOUR, trained, RowShape(400, 8, 1), checkpointing=True)
    assert again.recomputed == again.forward + again.attention / 3
    assert on.epoch == off.epoch + on.recomputed


def test_lora_by_hand(tiny_config: ModelConfig) -> None:
    adapter = adapter_shape(tiny_config, TrainSettings(rank=2, target=("k_proj",)))
    work = row_work(tiny_config, adapter, RowShape(10, 3, 0), checkpointing=False)
    assert work.lora == 7 * 6 * 2 * (64 + 32) * 10
    assert work.tower == work.tower_backward == work.prefix == 0


def test_layers_below_the_trained_ones_are_paid_once() -> None:
    few = TrainSettings(layers="last:4", prefix_cache=True)
    adapter = adapter_shape(FOUR, few)
    assert adapter.first == 30
    made, whole = make_plan(FOUR, few, ROWS, rate=1e13), make_plan(FOUR, CARD, ROWS, rate=1e13)
    assert made.disk.prefix == (16 * 416 + 8 * 384) * 2560 * 2
    assert whole.disk.prefix == 0
    assert made.flops < 0.15 * whole.flops
    assert made.memory.activations < 0.15 * whole.memory.activations
    assert made.seconds is not None
    assert made.seconds.prefix > 0


def test_training_siglip_pays_its_tower_each_epoch() -> None:
    whole = TrainSettings(target=("all-linear",))
    adapter = adapter_shape(FOUR, whole)
    assert set(adapter.tower) == set(range(27))
    work = row_work(FOUR, adapter, RowShape(400, 8, 1), checkpointing=False)
    assert work.epoch > work.tower + work.tower_backward > 2 * work.tower
    made = make_plan(FOUR, whole, ROWS)
    assert made.disk.features == 0
    assert made.memory.features_peak == made.memory.text
    assert made.memory.step_peak > 5 * make_plan(FOUR, CARD, ROWS).memory.activations


def test_lengths_are_those_of_training(tiny_medgemma: Path, phantom_dataset: Path) -> None:
    config = read_config(tiny_medgemma)
    encoder = Encoder(load_processor(tiny_medgemma), config)
    dataset = Dataset.open(phantom_dataset)
    for given_ in (CARD, TrainSettings(supervise="row", double_bos=True)):
        built = [
            build_examples(
                dataset.cases(split),
                dataset,
                encoder,
                config,
                None,
                supervise=given_.supervise,
                double_bos=given_.double_bos,
            )
            for split in ("train", "val")
        ]
        found = read_lengths(phantom_dataset, config, given_, encoder)
        assert list(found.train) == row_shapes(built[0])
        assert list(found.val) == row_shapes(built[1])
        assert found.exact
    images = {image for examples in built for example in examples for image in example.images}
    assert found.images == len(images)


def test_no_image_is_opened_and_lengths_without_a_tokenizer_are_near(
    tiny_medgemma: Path, phantom_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    config = read_config(tiny_medgemma)
    encoder = Encoder(load_processor(tiny_medgemma), config)
    exact = read_lengths(phantom_dataset, config, CARD, encoder)
    estimated = read_lengths(phantom_dataset, config, CARD, None)
    assert not estimated.exact
    assert estimated.tokens == pytest.approx(exact.tokens, rel=0.5)


def test_of_a_large_dataset_the_longest_rows_are_exact(
    tiny_medgemma: Path, phantom_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = read_config(tiny_medgemma)
    encoder = Encoder(load_processor(tiny_medgemma), config)
    exact = read_lengths(phantom_dataset, config, CARD, encoder)
    monkeypatch.setattr("mlx_medlora.training.lengths._MOST", 10)
    sampled = read_lengths(phantom_dataset, config, CARD, encoder)
    assert 0 < sampled.tokenised < len(exact.train) + len(exact.val)
    assert sampled.tokens == pytest.approx(exact.tokens, rel=0.05)


def test_mimic_cxr_takes_half_a_terabyte_of_features() -> None:
    many = ROWS.model_copy(update={"images": 377_110})
    assert make_plan(FOUR, CARD, many).disk.features == pytest.approx(494e9, rel=0.01)  # 460 GiB


def test_time_is_operations_over_the_rate_that_a_step_reaches() -> None:
    made = make_plan(FOUR, CARD, ROWS, rate=20e12)
    assert made.seconds is not None
    assert made.updates == 12
    assert made.seconds.step == pytest.approx(made.flops / 10e12 / 4)
    assert made.seconds.features == pytest.approx(8 * 5.46e12 / 10e12, rel=0.01)
    assert made.seconds.run > 3 * made.seconds.epoch
    assert make_plan(FOUR, CARD, ROWS).seconds is None


def stack(**given_: Any) -> ModelConfig:
    size = {"layers": 6, "hidden_size": 256, "intermediate_size": 1024, "vocab_size": 2048} | given_
    layers = size.pop("layers")
    text = TextConfig(
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        layer_types=("sliding_attention",) * layers,
        **size,
    )
    return ModelConfig(text=text, image_token_id=9, dtype="float32")


@pytest.mark.parametrize(
    ("config", "given_", "length"),
    [
        (stack(), {"batch_size": 4}, 160),
        (stack(layers=4, intermediate_size=2048), {"batch_size": 2, "dropout": 0.0}, 256),
        (stack(layers=10), {"batch_size": 4, "grad_checkpoint": "on"}, 160),
        (stack(hidden_size=512), {"batch_size": 4, "target": ALL, "rank": 64}, 128),
    ],
)
def test_the_peak_of_a_step_is_predicted_within_a_tenth(
    config: ModelConfig, given_: dict[str, Any], length: int
) -> None:
    given_settings = TrainSettings(**given_)
    model = build(config)
    attach(model, given_settings)
    mx.eval(model.parameters())
    model.train()
    rows = [row(i, length) for i in range(given_settings.batch_size)]
    stepper = Stepper(model, given_settings, total=3)
    mx.eval(stepper.optimizer.state)
    batch = collate(rows, FeatureCache(), config)
    gc.collect()  # what other tests left must not be freed between here and the peak
    before = mx.get_active_memory()
    peaks = []
    for step in range(3):
        mx.reset_peak_memory()
        stepper.update([batch], step, epoch=1)
        peaks.append(mx.get_peak_memory() - before)
    shape = costliest(row_shapes(rows), given_settings.batch_size)
    on = given_settings.grad_checkpoint == "on"
    memory = predict_memory(
        config, adapter_shape(config, given_settings), given_settings, shape, checkpointing=on
    )
    held = memory.text + memory.adapter  # what `before` holds; other tests' leftovers are in it too
    assert memory.step_peak - held == pytest.approx(max(peaks), rel=0.1)


def row(seed: int, length: int, answer: int = 4) -> Example:
    import numpy as np

    ids = np.random.default_rng(seed).integers(10, 1000, length).astype(np.int32)
    return Example(ids, np.arange(length) >= length - answer, (), str(seed), str(seed))


def test_the_limits_of_the_forward_are_those_that_memory_counts_with() -> None:
    from mlx_medlora.gemma import attention
    from mlx_medlora.training import kept, loss, memory

    assert (kept.KEPT_SCORES, kept.SCORES) == (attention._KEPT, attention._SCORES)
    assert memory.LOGITS == loss._LOGITS
    # 8 heads, 2 rows of 1,024: pieces of 256 queries are too many to keep, 16 at the end are not
    assert kept.kept_scores(8, 4, 2048, 2048, 1024) == 0
    assert kept.kept_scores(8, 4, 2 * 1040, 2 * 1040, 1040) == 8 * 2 * 1040 * (1040 % 252)
    assert kept.kept_scores(8, 2, 2048, 2048, 1024) == 8 * 2 * 1024**2


def test_checkpointing_trades_activations_for_time() -> None:
    off, on = (make_plan(FOUR, CARD, ROWS, checkpointing=c, rate=1e13) for c in (False, True))
    assert on.memory.activations < 0.45 * off.memory.activations
    assert off.seconds is not None
    assert on.seconds is not None
    assert 1.3 < on.seconds.step / off.seconds.step < 1.4


@pytest.mark.parametrize("config", [FOUR, LARGE])
def test_auto_checkpoints_only_where_it_must(config: ModelConfig) -> None:
    off, on = (make_plan(config, CARD, ROWS, checkpointing=c).memory.peak for c in (False, True))
    assert not wants_checkpointing(config, CARD, ROWS.train, off)
    assert wants_checkpointing(config, CARD, ROWS.train, off - 1)
    assert fits(config, CARD, ROWS.train, on, checkpointing=True)
    assert not fits(config, CARD, ROWS.train, on - 1, checkpointing=True)


def test_each_rung_of_the_ladder_takes_more_and_keeps_the_rows_of_an_update() -> None:
    rungs = list(ladder(FOUR, CARD, ROWS))
    assert [(r.bits, r.settings.batch_size, r.checkpointing) for r in rungs] == [
        (4, 1, True),
        (4, 1, False),
        (4, 2, False),
        (4, 4, False),
        (8, 4, False),
        (None, 4, False),
    ]
    assert [r.peak for r in rungs] == sorted(r.peak for r in rungs)
    assert {r.settings.batch_size * r.settings.accumulate for r in rungs} == {4}


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    less=st.floats(1, 300),
    more=st.floats(0, 300),
    batch=st.integers(1, 12),
    tokens=st.integers(20, 3000),
    rank=st.sampled_from([4, 64]),
)
def test_more_memory_never_picks_less(less: float, more: float, batch: int, tokens: int, rank: int) -> None:
    config, wanted = FOUR, TrainSettings(batch_size=batch, rank=rank)
    rows = Lengths(train=(RowShape(tokens, 5, 0),) * 20, val=(), images=0, tokenised=20)
    small, large = (choose(config, wanted, rows, room * GB) for room in (less, less + more))
    if small is None:
        return
    assert large is not None
    assert small.peak <= less * GB
    assert (large.bits or 16) >= (small.bits or 16)
    assert large.settings.batch_size >= small.settings.batch_size
    assert large.checkpointing <= small.checkpointing


def test_nothing_fits_a_thimble_and_a_quantised_model_keeps_its_bits(
    tiny_config: ModelConfig, adapted: Callable[..., Any]
) -> None:
    assert choose(LARGE, CARD, ROWS, usable(16 * GB)) is None
    found = choose(FOUR, CARD, ROWS, 10**15)
    assert found is not None
    assert found.bits is None
    packed = next(r.config for r in ladder(FOUR, CARD, ROWS) if r.bits == 8)
    assert {r.bits for r in ladder(packed, CARD, ROWS)} == {8}


def test_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="names no linear layer"):
        make_plan(FOUR, TrainSettings(target=("w_proj",)), ROWS)
