"""What to lower where memory runs out, in the figures of `plan`."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import psutil
from mlx.utils import tree_flatten

from mlx_medlora.device import usable_memory
from mlx_medlora.errors import OutOfMemory, is_out_of_memory
from mlx_medlora.training.choose import peak
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup
from mlx_medlora.training.shapes import row_shapes

GIB = 2**30


@contextmanager
def naming_what_to_lower(
    setup: Setup, settings: TrainSettings, recompute: bool, shards: int = 1
) -> Iterator[None]:
    """Turn memory that runs out within into OutOfMemory, with the setting to lower and what that gives."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            "memory ran out in training", hint=relief(setup, settings, recompute, shards)
        ) from error


def refuse_too_large(setup: Setup, settings: TrainSettings, recompute: bool, shards: int = 1) -> str | None:
    """A warning where `plan` puts the run beyond this machine's memory; None where it fits.

    Raises OutOfMemory where it is beyond a limit on this process: on the CPU, MLX ends the process there
    without a word.
    """
    needs = _takes(setup, settings, settings.batch_size, recompute, shards)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left = limit - psutil.Process().memory_info().vms
        if needs - _held(setup) > left:
            raise OutOfMemory(
                f"this process may allocate {left / GIB:.2f} GiB more (ulimit -v): too little for this run",
                hint=relief(setup, settings, recompute, shards),
            )
    if needs <= usable_memory():
        return None
    lower = relief(setup, settings, recompute, shards)
    return f"this machine has {usable_memory() / GIB:.2f} GiB for training. {lower}"


def _held(setup: Setup) -> int:
    """Bytes of the model, which are in memory already."""
    arrays: dict[str, mx.array] = dict(tree_flatten(setup.model.parameters()))
    return sum(array.nbytes for array in arrays.values())


def _takes(setup: Setup, settings: TrainSettings, size: int, checkpointing: bool, shards: int) -> int:
    """Bytes that `plan` predicts with `size` rows a batch; one of `shards` has its share of them."""
    config = setup.model.config.model_copy(update={"dtype": str(setup.model.dtype).removeprefix("mlx.core.")})
    own = settings.model_copy(update={"batch_size": -(-size // shards), "shards": None})
    return peak(config, own, row_shapes([*setup.train, *setup.val]), checkpointing=checkpointing)


def relief(setup: Setup, settings: TrainSettings, recompute: bool, shards: int = 1) -> str:
    """One sentence: what `plan` says this run takes, and the cheapest setting that takes less."""
    size = settings.batch_size

    def takes(rows: int, checkpointing: bool) -> float:
        return _takes(setup, settings, rows, checkpointing, shards) / GIB

    now = takes(size, recompute)
    if not recompute and (then := takes(size, True)) < now:
        return _sentence(now, "--grad-checkpoint on", then, "grad-checkpoint")
    smaller = next((n for n in range(size - 1, shards - 1, -1) if size % n == 0), None)
    if smaller is not None and (then := takes(smaller, recompute)) < now:
        accumulate = settings.accumulate * size // smaller
        flags = f"--batch-size {smaller} --accumulate {accumulate} (the same rows an update)"
        return _sentence(now, flags, then, "batch-size,accumulate")
    return (
        f"By `mlx-medlora plan` it takes {now:.2f} GiB, and no batch is smaller: end other programs, "
        "shorten the longest rows, or convert the model with --bits 4."
    )


def _sentence(now: float, flags: str, then: float, names: str) -> str:
    return (
        f"By `mlx-medlora plan` it takes {now:.2f} GiB; {flags} takes {then:.2f}. A resumed run also wants "
        f"--resume-anyway {names}."
    )
