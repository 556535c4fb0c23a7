"""How fast this machine trains and scores with a model, beside the rate of its own matrix products."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import mlx.core as mx
from rich.console import RenderableType
from rich.table import Table

from mlx_medlora.cases.bundled import write_bundled
from mlx_medlora.evaluation.runner import evaluate
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup, set_up
from mlx_medlora.training.shapes import RowShape, adapter_shape
from mlx_medlora.training.trainer import Trainer
from mlx_medlora.training.work import row_work

MIB = 2**20
SIZE = 2048
_LONG = 0.05  # seconds of one product after which no larger ones are tried
_SETTLING = 2  # steps before the clock starts: compiling, and filling the allocator

Say = Callable[[str], None]


class Bench(StrictModel):
    """What was measured. Seconds are medians; memory in bytes; rates in GFLOP/s.

    `matmul` has the best rate of square products by dtype. The step is on the `rows` longest rows, padded to
    `length` tokens; `step_share` is `step_gflop` a second over the rate in the model's dtype. `first_step`
    computes the images' features too. Memory is what a step adds to the weights.
    """

    device: str
    model: str
    dtype: str
    weights: int
    matmul: dict[str, float]
    rows: int
    length: int
    supervised: int
    images: int
    steps: int
    step: float
    step_gflop: float
    step_share: float
    first_step: float
    first_step_gflop: float
    step_memory: int
    scored_cases: int
    seconds_per_case: float

    def renderables(self) -> list[RenderableType]:
        """The result for a terminal."""
        table = Table(show_header=False, box=None)
        for dtype, rate in self.matmul.items():
            table.add_row(f"products of {dtype}", f"{rate:.1f} GFLOP/s", f"on {self.device}")
        work = f"{self.rows} rows of {self.length} tokens, {self.images} images, {self.supervised} supervised"
        table.add_row("training step", f"{self.step:.3f} s", work)
        table.add_row(
            "", f"{self.step_share:.0%}", f"of that {self.dtype} rate ({self.step_gflop:.3g} GFLOP)"
        )
        table.add_row("in the first epoch", f"{self.first_step:.3f} s", f"{self.first_step_gflop:.3g} GFLOP")
        memory = f"over {self.weights / MIB:.0f} MiB of weights"
        table.add_row("memory of a step", f"{self.step_memory / MIB:.0f} MiB", memory)
        table.add_row("scoring", f"{self.seconds_per_case:.3f} s a case", f"over {self.scored_cases} cases")
        return [f"{self.model}, {self.dtype}; medians of {self.steps} steps", table]


def bench(
    model: str | Path,
    data: Path | None = None,
    *,
    batch_size: int = 4,
    steps: int = 5,
    split: str = "val",
    say: Say = print,
) -> Bench:
    """Measure `model` on the dataset directory `data` (the 24 bundled cases where None).

    Nothing is kept. Raises InputError as training and evaluation would.
    """
    with TemporaryDirectory() as scratch:
        if data is None:
            data = Path(scratch) / "lora_training"
            write_bundled(data)
        settings = TrainSettings(batch_size=batch_size, epochs=10_000)
        say("reading model and data")
        setup = set_up(model, data, settings)
        return _measured(str(model), setup, settings, steps, split, say)


def _measured(model: str, setup: Setup, settings: TrainSettings, steps: int, split: str, say: Say) -> Bench:
    network, config = setup.model, setup.model.config
    cases, weights = len(setup.dataset.cases(split)), mx.get_active_memory()
    dtype = str(network.dtype).rpartition(".")[2]
    say("matrix products")
    rates = {kind: matmul_rate(getattr(mx, kind)) for kind in dict.fromkeys(("float32", dtype))}
    batch = sorted(setup.train, key=len, reverse=True)[: settings.batch_size]
    say("training steps")
    looking, images = look(setup, batch)
    seconds, memory = step(setup, batch, images, settings, steps)
    say("scoring")
    start = perf_counter()
    evaluate(network, setup.encoder, setup.dataset, split)
    scoring = perf_counter() - start
    gflop, tower = operations(config, settings, batch)
    return Bench(
        device=str(mx.default_device()),
        model=model,
        dtype=dtype,
        weights=weights,
        matmul={kind: round(rate, 1) for kind, rate in rates.items()},
        rows=len(batch),
        length=max(map(len, batch)),
        supervised=sum(example.targets for example in batch),
        images=sum(len(example.images) for example in batch),
        steps=steps,
        step=seconds,
        step_gflop=gflop,
        step_share=gflop / seconds / rates[dtype],
        first_step=seconds + looking,
        first_step_gflop=gflop + tower,
        step_memory=memory,
        scored_cases=cases,
        seconds_per_case=scoring / cases,
    )


def matmul_rate(dtype: mx.Dtype) -> float:
    """Best rate, in GFLOP/s, of products of two square matrices, 2048 wide where the machine is quick enough.

    bf16 on a processor may be a hundred times slower than fp32: there smaller ones must do.
    """
    size = SIZE // 8
    while True:
        a, b = (mx.random.normal((size, size), dtype) for _ in range(2))
        mx.eval(a @ b)
        seconds = min(_timed(a, b) for _ in range(5))
        if size == SIZE or seconds > _LONG:
            return 2 * size**3 / seconds / 1e9
        size *= 2


def _timed(a: mx.array, b: mx.array) -> float:
    start = perf_counter()
    mx.eval(a @ b)
    return perf_counter() - start


def look(setup: Setup, batch: Sequence[Example]) -> tuple[float, ImageSource]:
    """Seconds that the batch's images take in the frozen tower, and their features; 0 where it is trained."""
    if setup.trains_vision:
        return 0.0, PixelSource(setup.encoder)
    FeatureCache.for_examples(batch, setup.model, setup.encoder)
    start = perf_counter()
    found = FeatureCache.for_examples(batch, setup.model, setup.encoder)
    return perf_counter() - start, found


def step(
    setup: Setup, batch: list[Example], images: ImageSource, settings: TrainSettings, steps: int
) -> tuple[float, int]:
    """Median seconds of an update on `batch`, and the peak memory that it adds to what was there."""
    trainer = Trainer(setup.model, batch, [], images, settings, save=lambda kind: None)
    setup.model.train()
    before = mx.get_active_memory()
    for _ in range(_SETTLING):
        trainer.update([batch], 1)
    mx.reset_peak_memory()
    seconds = []
    for _ in range(steps):
        start = perf_counter()
        trainer.update([batch], 1)
        seconds.append(perf_counter() - start)
    return median(seconds), mx.get_peak_memory() - before


def operations(config: ModelConfig, settings: TrainSettings, batch: Sequence[Example]) -> tuple[float, float]:
    """GFLOP of a step on `batch` with cached features, and of its distinct images in the tower."""
    adapter, length = adapter_shape(config, settings), max(map(len, batch))
    rows = [
        row_work(config, adapter, RowShape(length, e.targets, len(e.images)), checkpointing=False)
        for e in batch
    ]
    distinct = len({image for example in batch for image in example.images})
    images = sum(len(example.images) for example in batch)
    tower = sum(row.tower for row in rows) * distinct / images if images else 0.0
    return sum(row.epoch for row in rows) / 1e9, tower / 1e9
