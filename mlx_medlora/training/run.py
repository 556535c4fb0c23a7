"""Training from paths and settings to a finished adapter directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.errors import Interrupted
from mlx_medlora.files import atomic_directory, refuse_nonempty, write_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.adapter import save_adapter
from mlx_medlora.training.events import Features, Listener
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.log import MetricsFile
from mlx_medlora.training.record import FILE, RunRecord, record
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup, set_up
from mlx_medlora.training.trainer import Kind, Outcome, Trainer

METRICS = "metrics.jsonl"
LAST = Path("checkpoints") / "last"


@dataclass(frozen=True)
class Validation:
    """What a validator is given each epoch. `features` (T, D) are by image file, already computed."""

    model: Base
    encoder: Encoder
    dataset: Dataset
    split: str
    features: Mapping[Path, mx.array]


Validator = Callable[[Validation], float | None]


@dataclass(frozen=True)
class TrainingResult:
    """Where the adapter is, and its `run.json`."""

    output: Path
    record: RunRecord


def run_training(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    validate: Validator | None = None,
    listeners: Sequence[Listener] = (),
    dtype: mx.Dtype | None = None,
) -> TrainingResult:
    """Train an adapter for `model` on the dataset directory `data`, and write `output`.

    `output` is complete or absent: the best adapter by validation loss at its top, the last one in
    `checkpoints/last`, `run.json` and `metrics.jsonl`. `validate` gives the validation accuracy each
    epoch, where there is a val split; `listeners` hear each event.
    Raises InputError for wrong input (before anything is written), MedloraError where training fails,
    Interrupted after Ctrl-C, `output` then holding what was trained so far.
    """
    settings, output = settings or TrainSettings(), Path(output)
    refuse_nonempty(output)
    start = perf_counter()
    mx.reset_peak_memory()
    setup = set_up(model, data, settings, dtype)
    features = look(setup, listeners)
    with atomic_directory(output) as work:
        trainer = Trainer(
            setup.model,
            setup.train,
            setup.val,
            features,
            settings,
            save=_saver(work, setup, settings),
            listeners=(MetricsFile(work / METRICS), *listeners),
            validate=_bound(validate, setup, features),
        )
        outcome = trainer.run()
        written = record(setup, settings, outcome, trainer.plan().trainable, perf_counter() - start)
        write_json(work / FILE, written.model_dump(mode="json"))
    if outcome.interrupted:
        raise _interrupted(output, outcome)
    return TrainingResult(output, written)


def look(setup: Setup, listeners: Sequence[Listener] = ()) -> ImageSource:
    """Run the vision tower over every distinct image of both splits, unless the tower is trained."""
    if setup.trains_vision:
        return PixelSource(setup.encoder)

    def tell(done: int, total: int) -> None:
        for listener in listeners:
            listener(Features(done, total))

    return FeatureCache.for_examples([*setup.train, *setup.val], setup.model, setup.encoder, tell)


def _saver(work: Path, setup: Setup, settings: TrainSettings) -> Callable[[Kind], None]:
    def save(kind: Kind) -> None:
        directory = work if kind == "best" else work / LAST
        directory.mkdir(parents=True, exist_ok=True)
        save_adapter(directory, setup.model, settings, setup.base)

    return save


def _bound(
    validate: Validator | None, setup: Setup, features: ImageSource
) -> Callable[[Base], float | None] | None:
    if validate is None:
        return None
    chosen = validate
    given = Validation(setup.model, setup.encoder, setup.dataset, "val", features.features)
    return lambda model: chosen(given)


def _interrupted(output: Path, outcome: Outcome) -> Interrupted:
    best = "as it was then" if outcome.best_epoch is None else f"of epoch {outcome.best_epoch}"
    return Interrupted(
        f"interrupted after {outcome.steps} updates; the adapter {best} is in {output}",
        hint=f"Use it with --adapter {output}, or train again with another --output.",
    )
