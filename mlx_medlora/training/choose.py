"""Which settings fit a memory size: a ladder from the smallest run to the one that was asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_medlora.device import CACHE
from mlx_medlora.gemma.config import ModelConfig, Quantization
from mlx_medlora.training.buckets import costliest
from mlx_medlora.training.lengths import Lengths
from mlx_medlora.training.memory import predict_memory
from mlx_medlora.training.plan import GB
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import RowShape, adapter_shape

_SMALL = 36 * GB  # up to this size macOS recommends two thirds for the GPU, above it three quarters


@dataclass(frozen=True)
class Choice:
    """One rung: the model as it would be converted, the batch and its accumulation, and their peak."""

    config: ModelConfig
    settings: TrainSettings
    checkpointing: bool
    peak: int

    @property
    def bits(self) -> int | None:
        """Bits of the text stack's matrices; None: as they are."""
        packed = self.config.quantization
        return None if packed is None else packed.bits


def usable(memory: float) -> float:
    """Bytes that training may use of a Mac with `memory` bytes: macOS's recommended share, less the cache.

    The share is an assumption, two thirds up to 36 GB and three quarters above; on a Mac itself
    `device.usable_memory` asks Metal.
    """
    share = 2 / 3 if memory <= _SMALL else 3 / 4
    return memory * share - CACHE


def fits(
    config: ModelConfig,
    settings: TrainSettings,
    rows: Sequence[RowShape],
    memory_bytes: float,
    *,
    checkpointing: bool,
) -> bool:
    """True where a run's predicted peak is within `memory_bytes`."""
    return peak(config, settings, rows, checkpointing=checkpointing) <= memory_bytes


def wants_checkpointing(
    config: ModelConfig, settings: TrainSettings, rows: Sequence[RowShape], memory_bytes: float
) -> bool:
    """What `auto` means: checkpointing where a run over `rows` would not fit `memory_bytes` without it."""
    return not fits(config, settings, rows, memory_bytes, checkpointing=False)


def peak(
    config: ModelConfig, settings: TrainSettings, rows: Sequence[RowShape], *, checkpointing: bool
) -> int:
    """Predicted peak in bytes, for the longest rows together."""
    step = costliest(rows, settings.batch_size, settings.shards or 1)
    shape = adapter_shape(config, settings)
    return predict_memory(config, shape, settings, step, checkpointing=checkpointing).peak


def choose(
    config: ModelConfig, settings: TrainSettings, lengths: Lengths, memory_bytes: float
) -> Choice | None:
    """The highest rung of `ladder` that fits; None where not even the lowest does.

    More memory never gives fewer bits or a smaller batch.
    """
    best = None
    for rung in ladder(config, settings, lengths):
        if rung.peak <= memory_bytes:
            best = rung
    return best


def ladder(config: ModelConfig, settings: TrainSettings, lengths: Lengths) -> Iterator[Choice]:
    """Runs with the same rows an update, each cheaper to the result than the one before it.

    First checkpointing goes, then the batch grows, then bits come back: checkpointing costs half of a step,
    accumulating single rows of hundreds of tokens next to nothing, and 4 bits train well (QLoRA).
    A `grad_checkpoint` that is not auto holds on every rung.
    """
    configs = _precisions(config)
    rows = (*lengths.train, *lengths.val)
    least = settings.shards or 1
    sizes = [n for n in range(least, settings.batch_size + 1) if settings.batch_size % n == 0]
    always = settings.grad_checkpoint == "on"
    steps = [(configs[0], sizes[0], True)] if settings.grad_checkpoint == "auto" else []
    steps += [(configs[0], size, always) for size in sizes]
    steps += [(one, settings.batch_size, always) for one in configs[1:]]
    for one, size, checkpointing in steps:
        times = settings.batch_size // size
        own = settings.model_copy(update={"batch_size": size, "accumulate": settings.accumulate * times})
        yield Choice(one, own, checkpointing, peak(one, own, rows, checkpointing=checkpointing))


def _precisions(config: ModelConfig) -> list[ModelConfig]:
    """The model at 4 and 8 bits and whole; one that is quantised, or does not divide, stays as it is."""
    if config.quantization is not None or config.text.hidden_size % 64 or config.text.intermediate_size % 64:
        return [config]
    packed = [config.model_copy(update={"quantization": Quantization(bits=bits)}) for bits in (4, 8)]
    return [*packed, config]
