"""Training from paths and settings to a finished adapter directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.files import write_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.adapter import CONFIG, WEIGHTS, save_adapter
from mlx_medlora.lora.provenance import Provenance, described, write_provenance
from mlx_medlora.training.checkpoint import Checkpoint, seed_all
from mlx_medlora.training.events import Accuracy, Listener, Notice, Resumed
from mlx_medlora.training.features import ImageSource
from mlx_medlora.training.images import Confirm, agree_on_prefix, fill_prefix, look, open_images
from mlx_medlora.training.keeper import CheckpointKeeper
from mlx_medlora.training.log import METRICS, TIMINGS
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.readings import readings
from mlx_medlora.training.record import RunRecord, describe_data, other_versions, record, versions
from mlx_medlora.training.relief import naming_what_to_lower, refuse_too_large
from mlx_medlora.training.resume import (
    RECOMPUTE,
    SHARDED,
    accepted,
    find,
    identity,
    pack,
    refuse_changed_settings,
    refuse_changes,
    unpack,
)
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup, recomputes, set_up
from mlx_medlora.training.stop import Stop
from mlx_medlora.training.trainer import Kind, Trainer
from mlx_medlora.training.workplace import FINISHED, Workplace, ending

LAST = Path("checkpoints") / "last"


@dataclass(frozen=True)
class Validation:
    """What a validator is given each epoch. `features` (T, D) by image file spare it the tower."""

    model: Base
    encoder: Encoder
    dataset: Dataset
    split: str
    features: Mapping[Path, mx.array]


Validator = Callable[[Validation], Accuracy | None]


@dataclass(frozen=True)
class TrainingResult:
    """Where the adapter is, and its `run.json`; `first`: this is the rank that wrote it."""

    output: Path
    record: RunRecord
    first: bool = True


@dataclass(frozen=True)
class _Job:
    """One process's part in a run: what to train, its workplace (the first rank's alone) and its peers."""

    model: str | Path
    data: str | Path
    settings: TrainSettings
    features: FeatureSettings
    dtype: mx.Dtype | None
    anyway: frozenset[str]
    work: Workplace | None
    ranks: Ranks
    stop: Stop
    confirm: Confirm | None


def run_training(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    settings: TrainSettings | None = None,
    *,
    features: FeatureSettings | None = None,
    validate: Validator | None = None,
    listeners: Sequence[Listener] = (),
    dtype: mx.Dtype | None = None,
    resume: bool = False,
    resume_anyway: Sequence[str] = (),
    again: str = "the same command and --resume",
    confirm: Confirm | None = None,
) -> TrainingResult:
    """Train an adapter for `model` on the dataset directory `data`, and write `output`.

    `output` is complete or absent: the best adapter by validation loss at its top, the last one in
    `checkpoints/last`, `run.json`, `metrics.jsonl` and `timings.jsonl`. Until then the run lives beside it
    in `.NAME.run`, and with `resume` goes on there, to the same bytes. `resume_anyway` names what may have
    changed since: settings, model, data, tokenizer, processor. `features` says where image features are
    kept, in `data`/.features by default; it changes nothing of the adapter. `validate` gives the validation
    accuracy each epoch, an `Accuracy`, where there is a val split; `listeners` hear each event; `again` is
    the command that continues, for messages; `confirm` is asked before hidden states are kept.
    Where several ranks train together all call this; the first writes and is heard.
    Raises InputError for wrong input (before anything is written), MedloraError where training fails,
    Interrupted after Ctrl-C or SIGTERM, its state then saved.
    """
    settings, output, start = settings or TrainSettings(), Path(output), perf_counter()
    anyway = accepted(resume_anyway, resume)
    ranks = Ranks.join()
    with ranks.together():
        ranks.refuse_small(settings.batch_size, settings.shards)
        work = Workplace.open(output, resume=resume) if ranks.first else None
        # `ending` turns Ctrl-C into Interrupted, which `together` takes for an end of all: so again, inside
        with ending(work, again), Stop(quiet=not ranks.first) as stop, ranks.together():
            job = _Job(
                model,
                data,
                settings,
                features or FeatureSettings(),
                dtype,
                anyway,
                work,
                ranks,
                stop,
                confirm if ranks.first else None,
            )
            return _train(job, validate, listeners if ranks.first else (), start, output)


def _train(
    job: _Job, validate: Validator | None, listeners: Sequence[Listener], start: float, output: Path
) -> TrainingResult:
    mx.reset_peak_memory()
    found, remarks = _found(job)
    with job.stop.at_once():
        setup = set_up(job.model, job.data, job.settings, job.dtype)
        about = describe_data(setup)
        found_images = open_images(setup, job.features, listeners)
        below = agree_on_prefix(setup, job.settings, job.features, found_images, listeners, job.confirm)
        job.ranks.any(False)  # none works before the first rank's user has agreed
        images = look(setup, job.features, job.ranks, listeners, found_images)
        if below is not None:
            fill_prefix(below, setup, job.ranks, listeners)
    shards = _shards(job, found)
    recompute = _recompute(job, setup, found, shards)
    if warning := refuse_too_large(setup, job.settings, recompute, shards):
        for listener in listeners:
            listener(Notice(warning))
    chosen = {RECOMPUTE: recompute, SHARDED: shards}
    now = identity(job.settings, setup.base, about, job.dtype, readings(setup)) | chosen
    job.ranks.refuse_unlike(now)
    origin = described(about, setup.source, setup.others)
    keeper = CheckpointKeeper(
        job.work, job.settings, setup.base, now, versions(), job.ranks, job.stop, start, origin
    )
    trainer = Trainer(
        setup.model,
        setup.train,
        setup.val,
        images,
        job.settings,
        save=_saver(job.work, setup, job.settings, origin),
        listeners=[*keeper.listeners, *listeners],
        validate=_bound(validate if job.ranks.first else None, setup, images),
        keeper=keeper,
        ranks=job.ranks,
        below=below,
        recompute=recompute,
        shards=shards,
    )
    seed_all(job.settings.seed)
    if found is not None:
        changes = refuse_changes(found.state.identity, now, job.anyway)
        keeper.restore(trainer, found, changes)
        tell = Resumed(
            found.state.step, trainer.total, (*remarks, *other_versions(found), *map(_agreed, changes))
        )
        for listener in listeners:
            listener(tell)
    with naming_what_to_lower(setup, job.settings, recompute, shards):
        outcome = trainer.run()
    written = record(setup, about, job.settings, outcome, trainer.plan().trainable, keeper, recompute)
    if job.work is not None:
        _complete(job.work, setup, job.settings, written)
    return TrainingResult(output, written, job.ranks.first)


def _agreed(name: str) -> str:
    return f"{name} has changed since the checkpoint, as --resume-anyway allows"


def _found(job: _Job) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to continue from, on all ranks. Settings that changed are refused before a load."""
    found, remarks = find(job.work) if job.work else (None, [])
    if job.ranks.size > 1:
        found = unpack(job.ranks.broadcast(pack(found)))
    if found is not None:
        refuse_changed_settings(found.state.identity, job.settings, job.anyway)
    return found, remarks


def _shards(job: _Job, found: Checkpoint | None) -> int:
    """In how many shards a batch is computed: as the run began, where these ranks can share them evenly."""
    began = 1 if found is None else int(found.state.identity.get(SHARDED, 1))
    return job.settings.shards or (job.ranks.size if began % job.ranks.size else began)


def _recompute(job: _Job, setup: Setup, found: Checkpoint | None, shards: int) -> bool:
    """Whether layers are computed again; what `auto` once chose is kept, and is the same on all ranks."""
    if job.settings.grad_checkpoint == "auto" and found is not None and RECOMPUTE in found.state.identity:
        return bool(found.state.identity[RECOMPUTE])
    return job.ranks.any(job.ranks.first and recomputes(setup, job.settings, shards))


def _complete(work: Workplace, setup: Setup, settings: TrainSettings, written: RunRecord) -> None:
    """Put together what a finished run holds, and rename it to the output."""
    last = work.finished / LAST
    last.mkdir(parents=True)
    save_adapter(last, setup.model, settings, setup.base)
    write_provenance(last, described(written.data, written.source, written.others))
    for name in (WEIGHTS, CONFIG, METRICS, TIMINGS):
        shutil.copyfile(work.path / name, work.finished / name)
    write_json(work.finished / FINISHED, written.model_dump(mode="json"))
    work.complete()


def _saver(
    work: Workplace | None, setup: Setup, settings: TrainSettings, origin: Provenance
) -> Callable[[Kind], None]:
    """Keeps the best adapter at the top; each checkpoint holds the last."""

    def save(kind: Kind) -> None:
        if work is not None and kind == "best":
            save_adapter(work.path, setup.model, settings, setup.base)
            write_provenance(work.path, origin)

    return save


def _bound(
    validate: Validator | None, setup: Setup, features: ImageSource
) -> Callable[[Base], Accuracy | None] | None:
    if validate is None:
        return None
    chosen = validate
    given = Validation(setup.model, setup.encoder, setup.dataset, "val", features.features)
    return lambda model: chosen(given)
