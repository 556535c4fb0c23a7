"""`run.json`: what was trained, on what, with what, and how it ended."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from mlx_medlora import __version__
from mlx_medlora.cases.source import DataSource
from mlx_medlora.lora.provenance import CONTAINS
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.checkpoint import Checkpoint
from mlx_medlora.training.events import Epoch
from mlx_medlora.training.place import Outcome
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup

_PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers", "numpy", "pillow", "safetensors")


class Spent(Protocol):
    """What a run took, all processes that it was continued in together."""

    def seconds(self) -> float:
        """Seconds."""

    def peak_memory(self) -> int:
        """Bytes at the peak."""


class RunRecord(StrictModel):
    """The contents of `run.json`. Losses are means over supervised tokens; memory in bytes.

    `source` is the data's mark, `others` are those of the base and of replayed rows; `contains` says what of
    the data the adapter holds.
    """

    format_version: int = 1
    settings: TrainSettings
    base: dict[str, str | None]
    modules: int
    trainable_parameters: int
    grad_checkpointing: bool
    data: dict[str, Any]
    source: DataSource | None = None
    others: tuple[DataSource, ...] = ()
    contains: tuple[str, ...] = CONTAINS
    versions: dict[str, str]
    updates: int
    best_epoch: int | None
    best_by: str
    val_loss: float | None
    val_accuracy: float | None
    val_accuracy_interval: tuple[float, float] | None = None
    before: dict[str, Any] | None
    epochs: list[dict[str, Any]]
    stopped_early: bool
    seconds: float
    peak_memory: int


def record(
    setup: Setup,
    data: dict[str, Any],
    settings: TrainSettings,
    outcome: Outcome,
    trainable: int,
    spent: Spent,
    recompute: bool,
) -> RunRecord:
    """Describe a finished run. `val_loss`, `val_accuracy` and its interval are those of the best epoch.

    `recompute` says whether it had gradient checkpointing.
    """
    trained = [epoch for epoch in outcome.epochs if epoch.epoch]
    best = next((epoch for epoch in trained if epoch.epoch == outcome.best_epoch), None)
    return RunRecord(
        settings=_without_places(settings),
        base=setup.base.model_dump(),
        modules=len(setup.modules),
        trainable_parameters=trainable,
        grad_checkpointing=recompute,
        data=data,
        source=setup.source,
        others=setup.others,
        versions=versions(),
        updates=outcome.steps,
        best_epoch=outcome.best_epoch,
        best_by=_best_by(bool(setup.val), len(trained)),
        val_loss=best and best.val_loss,
        val_accuracy=best and best.val_accuracy,
        val_accuracy_interval=best and best.val_accuracy_interval,
        before=_before(outcome.epochs),
        epochs=[asdict(epoch) for epoch in trained],
        stopped_early=outcome.stopped_early,
        seconds=round(spent.seconds(), 3),
        peak_memory=spent.peak_memory(),
    )


def _best_by(validated: bool, epochs: int) -> str:
    if epochs == 1:
        return "there being no other"
    return "validation loss" if validated else "the last epoch, there being no validation split"


def _before(epochs: list[Epoch]) -> dict[str, Any] | None:
    """The base's own loss and accuracy on the validation split, where there is one."""
    first = next((epoch for epoch in epochs if epoch.epoch == 0 and epoch.val_loss is not None), None)
    names = ("val_loss", "val_accuracy", "val_accuracy_interval")
    return None if first is None else {name: getattr(first, name) for name in names}


def describe_data(setup: Setup) -> dict[str, Any]:
    """Rows, supervised tokens and SHA-256 of each split, under the dataset directory's own name.

    General rows that are replayed are counted by themselves, under `replay`.
    """
    splits = {"train": [example for example in setup.train if not example.replay], "val": setup.val}
    described = {
        split: {
            "rows": len(examples),
            "supervised_tokens": sum(example.targets for example in examples),
            "sha256": setup.dataset.fingerprint(split),
        }
        for split, examples in splits.items()
        if examples
    }
    if setup.replay is not None:
        targets = sum(example.targets for example in setup.train if example.replay)
        described["replay"] = setup.replay.about() | {"supervised_tokens": targets}
    return {"name": setup.dataset.root.resolve().name, **described}


def _without_places(settings: TrainSettings) -> TrainSettings:
    """The settings with a file's name in place of its path, which says something of this machine."""
    return settings.model_copy(update={"replay": settings.replay and Path(settings.replay).name})


def versions() -> dict[str, str]:
    """Versions of this toolkit, Python, the platform and the packages that decide the numbers."""
    found = {"mlx-medlora": __version__, "python": platform.python_version()}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def other_versions(found: Checkpoint) -> list[str]:
    """A remark on each version that is another than when the checkpoint was written."""
    then, now = found.state.versions, versions()
    return [
        f"{name} was {then.get(name)}, is {now.get(name)}: the last digits may differ"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
