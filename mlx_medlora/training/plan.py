"""What a training run is going to take, before anything loads: memory, disk and time."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_medlora.features.size import features_bytes
from mlx_medlora.gemma import counts
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.buckets import costliest
from mlx_medlora.training.lengths import Lengths
from mlx_medlora.training.memory import Memory, predict_memory
from mlx_medlora.training.prefix import prefix_bytes
from mlx_medlora.training.rates import STEP_SHARE
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import AdapterShape, RowShape, adapter_shape
from mlx_medlora.training.work import Work, row_work

GB = 10**9


class Disk(StrictModel):
    """Bytes that a run caches: features of the frozen tower, and hidden states below the trained layers."""

    features: int
    prefix: int


class Seconds(StrictModel):
    """Time at a rate of `tflops` for products, `tower_tflops` in the tower; `share` is reached.

    features and, with the prefix cache, prefix are paid once, an epoch includes its validation.
    """

    tflops: float
    tower_tflops: float
    share: float
    features: float
    prefix: float
    step: float
    epoch: float
    run: float


class Plan(StrictModel):
    """A run, predicted. Memory and disk in bytes, `flops` of one epoch's training in operations."""

    rows: int
    validation_rows: int
    images: int
    longest_row: int
    exact_lengths: bool
    batch_size: int
    accumulate: int
    checkpointing: bool
    bits: int | None
    dtype: str
    epochs: int
    updates: int
    trainable_parameters: int
    memory: Memory
    disk: Disk
    flops: float
    seconds: Seconds | None


def make_plan(
    config: ModelConfig,
    settings: TrainSettings,
    lengths: Lengths,
    *,
    checkpointing: bool = False,
    rate: float | None = None,
    tower_rate: float | None = None,
) -> Plan:
    """Predict a run of `settings` over rows of `lengths`; `rate` in FLOP/s gives its time too.

    `tower_rate` is that of the vision tower, which is never packed, where it is another.

    Raises InputError where a target names no layer.
    """
    adapter = adapter_shape(config, settings)
    step = costliest(lengths.train, settings.batch_size, settings.shards or 1)
    memory = predict_memory(config, adapter, settings, step, checkpointing=checkpointing)
    kept = settings.prefix_cache
    work = total_work(config, adapter, lengths.train, checkpointing=checkpointing, prefix_cache=kept)
    batches = -(-len(lengths.train) // settings.batch_size)
    updates = -(-batches // settings.accumulate) * settings.epochs
    packed = config.quantization
    return Plan(
        rows=len(lengths.train),
        validation_rows=len(lengths.val),
        images=lengths.images,
        longest_row=max(row.tokens for row in lengths.train),
        exact_lengths=lengths.exact,
        batch_size=settings.batch_size,
        accumulate=settings.accumulate,
        checkpointing=checkpointing,
        bits=None if packed is None else packed.bits,
        dtype=config.dtype,
        epochs=settings.epochs,
        updates=updates,
        trainable_parameters=adapter.parameters,
        memory=memory,
        disk=_disk(config, adapter, settings, lengths),
        flops=work.epoch,
        seconds=None
        if rate is None
        else _seconds(config, adapter, settings, lengths, work, updates, rate, tower_rate or rate),
    )


def total_work(
    config: ModelConfig,
    adapter: AdapterShape,
    rows: Sequence[RowShape],
    *,
    checkpointing: bool,
    prefix_cache: bool = False,
) -> Work:
    """The operations of training on `rows` once, by part; `row_work` says what `prefix_cache` moves."""
    counted: dict[RowShape, int] = {}
    for row in rows:
        counted[row] = counted.get(row, 0) + 1
    total = Work()
    for row, times in counted.items():
        one = row_work(config, adapter, row, checkpointing=checkpointing, prefix_cache=prefix_cache)
        total += one.scaled(times)
    return total


def _disk(config: ModelConfig, adapter: AdapterShape, settings: TrainSettings, lengths: Lengths) -> Disk:
    """Where SigLIP is trained nothing can be cached; a prefix only where asked for, below the first layer."""
    features = 0 if adapter.tower else features_bytes(config, lengths.images)
    if not settings.prefix_cache or not adapter.first:
        return Disk(features=features, prefix=0)
    tokens = (row.tokens for row in (*lengths.train, *lengths.val))
    return Disk(features=features, prefix=prefix_bytes(config, tokens, getattr(mx, config.dtype)))


def _seconds(
    config: ModelConfig,
    adapter: AdapterShape,
    settings: TrainSettings,
    lengths: Lengths,
    work: Work,
    updates: int,
    rate: float,
    tower_rate: float,
) -> Seconds:
    speed = rate * STEP_SHARE
    frozen = 0 if adapter.tower else lengths.images * counts.tower_flops(config)
    kept = settings.prefix_cache
    validation = total_work(config, adapter, lengths.val, checkpointing=False, prefix_cache=kept)
    looked = validation.tower if adapter.tower else 0.0
    one_way = validation.forward + validation.attention / 3 + validation.head / 2 + looked
    epoch = (work.epoch + one_way) / speed
    features, prefix = frozen / (tower_rate * STEP_SHARE), (work.prefix + validation.prefix) / speed
    return Seconds(
        tflops=rate / 1e12,
        tower_tflops=tower_rate / 1e12,
        share=STEP_SHARE,
        features=features,
        prefix=prefix,
        step=work.epoch / speed * settings.epochs / updates,
        epoch=epoch,
        run=features + prefix + settings.epochs * epoch + one_way / speed,
    )
