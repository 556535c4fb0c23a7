"""Keeping a run's state while it goes on: when, what, and how it is taken up again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import mlx.core as mx

from mlx_medlora.errors import InputError, Interrupted, NotANumber
from mlx_medlora.files import keep_private
from mlx_medlora.lora.adapter import CONFIG, WEIGHTS, BaseModelId, save_adapter
from mlx_medlora.lora.provenance import Provenance, write_provenance
from mlx_medlora.training import checkpoint
from mlx_medlora.training.checkpoint import BEST, MOMENTS, RANDOM, Checkpoint, State, Times
from mlx_medlora.training.events import Epoch, Listener
from mlx_medlora.training.log import MetricsFile
from mlx_medlora.training.place import Place
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.resume import keeps_order, keeps_schedule
from mlx_medlora.training.schedule import Course, warmup_steps
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.spoilt import gives_numbers
from mlx_medlora.training.stop import Stop
from mlx_medlora.training.trainer import Trainer
from mlx_medlora.training.workplace import Workplace, newest_first, set_aside

_BEST_WEIGHTS = f"{BEST}/{WEIGHTS}"  # in a checkpoint whose own adapter is not the best


class CheckpointKeeper:
    """Writes checkpoints into a run's workplace, and ends the run where a signal asks for it.

    All ranks hold one, so that they end together; `work` is None on those that do not write.
    """

    def __init__(
        self,
        work: Workplace | None,
        settings: TrainSettings,
        base: BaseModelId,
        identity: dict[str, Any],
        versions: dict[str, str],
        ranks: Ranks,
        stop: Stop,
        started: float,
        origin: Provenance,
    ) -> None:
        """`started`: when this process began with the run, by `perf_counter`; `origin`: of its data."""
        self.origin = origin
        self.work, self.settings, self.base = work, settings, base
        self.identity, self.versions = identity, versions
        self.ranks, self.stop = ranks, stop
        self.metrics = None if work is None else MetricsFile(work.path)
        self.started, self.written = started, perf_counter()
        self.seconds_before, self.peak_before = 0.0, 0
        self.validated: str | None = None  # the newest checkpoint at the end of an epoch

    @property
    def listeners(self) -> list[Listener]:
        """Those that write the run's log: none on a rank that does not write."""
        return [] if self.metrics is None else [self.metrics]

    def after_update(self, trainer: Trainer) -> None:
        """Write a checkpoint where one is due. Raises Interrupted, the state saved, after a signal."""
        if self.ranks.any(self.stop.requested):
            self._end(trainer)
        elif perf_counter() - self.written >= self.settings.checkpoint_every * 60:
            self.write(trainer)

    def after_epoch(self, trainer: Trainer) -> None:
        """Write a checkpoint. Raises Interrupted after a signal."""
        self.write(trainer)
        self.stop.has_updates = True
        if self.ranks.any(self.stop.requested) and trainer.place.epoch <= self.settings.epochs:
            raise self._interrupted(trainer)

    def before_failure(self, trainer: Trainer) -> None:
        """Keep the last good adapter: write a checkpoint, or go back where earlier updates have spoilt it."""
        if self.ranks.any(bool(trainer.spoilt)):
            self._step_back(trainer)
        elif trainer.outcome.steps:
            self.write(trainer)
        self.ranks.any(False)  # the first rank is done when the others leave

    @contextmanager
    def validating(self, trainer: Trainer) -> Iterator[None]:
        """Within, a signal ends the run at once, with the state as it was: it is validated again later.

        With several ranks, which wait for one another, validation is finished first. A failure is kept like
        that too: the epoch's updates are done, and what is missing or too large may be put right. Where the
        loss is no number the adapter is spoilt, and the run goes back to one that is not.
        """
        states = checkpoint.random_states()
        try:
            with nullcontext() if self.ranks.size > 1 else self.stop.at_once():
                yield
        except KeyboardInterrupt:
            if trainer.place.epoch == 0 or self.ranks.size > 1:
                raise
            checkpoint.restore_random(states)
            self._end(trainer)
        except NotANumber:
            self._step_back(trainer)
            raise
        except Exception:
            if trainer.place.epoch:
                checkpoint.restore_random(states)
                self.write(trainer)
            raise

    def _step_back(self, trainer: Trainer) -> None:
        """Set aside the newest checkpoints that, too, give no number; the oldest stays in any case.

        Where what gives none is not known here (another rank has it), all since the last validated epoch.
        """
        found = [] if self.work is None else newest_first(self.work.checkpoints)
        for path in found[:-1]:
            with suppress(InputError, OSError):  # a damaged one is found, and told, by who resumes
                if self._is_good(path, trainer):
                    return
                set_aside(path, "spoilt")

    def _is_good(self, path: Path, trainer: Trainer) -> bool:
        if not trainer.spoilt:
            return path.name == self.validated
        checkpoint.restore_adapter(trainer.model, (path / WEIGHTS).read_bytes())
        return gives_numbers(trainer.model, trainer.spoilt, trainer.stepper.first)

    def _end(self, trainer: Trainer) -> None:
        self.write(trainer)
        self.ranks.any(False)  # the first rank has written when the others leave
        raise self._interrupted(trainer)

    def _interrupted(self, trainer: Trainer) -> Interrupted:
        return Interrupted(
            f"interrupted after {trainer.outcome.steps} of {trainer.total} updates; all are saved"
        )

    def seconds(self) -> float:
        """Seconds that the run has taken, all its processes together."""
        return self.seconds_before + perf_counter() - self.started

    def peak_memory(self) -> int:
        """The largest peak memory of the run's processes, in bytes."""
        return max(self.peak_before, mx.get_peak_memory())

    def write(self, trainer: Trainer) -> None:
        """Write a checkpoint; once it has been read back, older ones go."""
        if self.work is None or self.metrics is None:
            return
        metrics, timings = self.metrics.sizes()
        outcome = trainer.outcome
        epochs = [asdict(epoch) for epoch in outcome.epochs]
        seconds = [epoch.pop("seconds") for epoch in epochs]
        state = State(
            step=outcome.steps,
            place=checkpoint.Place(**asdict(trainer.place)),
            trained=trainer.place.updates == trainer.per_epoch,
            course=trainer.stepper.course,
            best_epoch=outcome.best_epoch,
            epochs=epochs,
            metrics_bytes=metrics,
            identity=self.identity,
            versions=self.versions,
        )
        times = Times(
            seconds=self.seconds(), peak_memory=self.peak_memory(), timings_bytes=timings, epochs=seconds
        )
        target = self.work.checkpoints / f"step-{outcome.steps:06}"
        checkpoint.write_checkpoint(target, lambda partial: self._fill(partial, trainer), state, times)
        if trainer.place.updates == 0:
            self.validated = target.name
        self._remove_old(newest_first(self.work.checkpoints))
        self.written = perf_counter()

    def _remove_old(self, found: Sequence[Path]) -> None:
        """Leave the newest, and as the last of several the newest that was validated."""
        names, keep = [path.name for path in found], self.settings.keep
        kept = names[:keep]
        if keep > 1 and self.validated in names[keep:]:
            kept[-1] = self.validated
        for path in found:
            if path.name not in kept:
                shutil.rmtree(path)

    def _fill(self, directory: Path, trainer: Trainer) -> None:
        save_adapter(directory, trainer.model, self.settings, self.base)
        write_provenance(directory, self.origin)
        (directory / MOMENTS).write_bytes(checkpoint.moments(trainer.stepper.optimizer))
        (directory / RANDOM).write_bytes(checkpoint.random_states())
        if trainer.outcome.best_epoch is not None and not trainer.outcome.at_best:
            assert self.work is not None
            (directory / BEST).mkdir()
            write_provenance(directory / BEST, self.origin)
            for name in (WEIGHTS, CONFIG):
                shutil.copyfile(self.work.path / name, directory / BEST / name)

    def restore(self, trainer: Trainer, found: Checkpoint, changes: Collection[str] = ()) -> None:
        """Take up the run where `found` left it; the epoch begins again where the order of its rows changed.

        `changes` are the names of what has changed since and was accepted.
        Raises InputError where the checkpoint is that of another adapter, or the log was cut.
        """
        state, times = found.state, found.times
        checkpoint.restore_adapter(trainer.model, found.files[WEIGHTS])
        if state.step:  # before the first update there are none
            checkpoint.restore_moments(trainer.stepper.optimizer, trainer.model, found.files[MOMENTS])
        checkpoint.restore_random(found.files[RANDOM])
        trainer.place = _place(state, keeps_order(changes), trainer.per_epoch)
        outcome = trainer.outcome
        outcome.steps, outcome.best_epoch = state.step, state.best_epoch
        outcome.at_best = state.best_epoch is not None and _BEST_WEIGHTS not in found.files
        outcome.epochs = [
            Epoch(**epoch, seconds=seconds) for epoch, seconds in zip(state.epochs, times.epochs, strict=True)
        ]
        end = state.step + trainer.updates_left()
        known = state.course if keeps_schedule(changes) else None
        trainer.stepper.course = _continued(known, state.step, end, self.settings.warmup)
        self.seconds_before, self.peak_before = times.seconds, times.peak_memory
        self.stop.has_updates = True
        kept = [] if self.work is None else newest_first(self.work.checkpoints)
        self.validated = next((path.name for path in kept if checkpoint.is_validated(path)), None)
        if self.work is not None and self.metrics is not None:
            self.metrics.cut((state.metrics_bytes, times.timings_bytes))
            self._restore_best(self.work.path, found)

    def _restore_best(self, directory: Path, found: Checkpoint) -> None:
        """Put the best adapter of the checkpoint's time at the top, whatever was written since."""
        here = _BEST_WEIGHTS not in found.files
        for name in (WEIGHTS, CONFIG):
            (directory / name).unlink(missing_ok=True)
            if found.state.best_epoch is not None:
                partial = directory / f".{name}.partial"
                partial.write_bytes(found.files[name if here else f"{BEST}/{name}"])
                keep_private(partial)
                os.replace(partial, directory / name)


def _place(state: State, same_order: bool, per_epoch: int) -> Place:
    """Where the epoch goes on: in another order at its beginning, but where all its updates are done."""
    place = Place(**state.place.model_dump())
    if same_order:
        return place
    return replace(place, updates=per_epoch) if state.trained else Place(place.epoch)


def _continued(course: Course | None, step: int, end: int, warmup: float) -> Course:
    """The course from update `step` on, which is to end at `end`: the rate goes on from where it was.

    With `course` None, that of a run of `end` updates of which the share `warmup` warms up.
    """
    if course is None:
        return Course.whole(end, warmup_steps(end, warmup))
    return course if course.end == end else course.to(step, end)
