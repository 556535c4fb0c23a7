"""Taking up a run: its newest whole checkpoint, and what has changed since."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import load, save

from mlx_medlora.errors import Changed, InputError
from mlx_medlora.lora.adapter import BaseModelId
from mlx_medlora.training.checkpoint import STATE, TIMES, Checkpoint, parse, read_checkpoint
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.workplace import Workplace, newest_first, set_aside

_FREE = {"checkpoint_every", "keep", "replay"}  # they decide nothing that is computed: `data` has its hash
_SHAPE = {"rank", "target", "layers", "vision", "dora", "save_modules"}
_ORDER = {"batch_size", "accumulate", "seed", "replay_share", "data", "double_bos", "tokenizer"}  # by length
_COURSE = {"epochs", "schedule", "warmup"}
_REST = ("model", "data", "dtype", "tokenizer", "processor")
_READ = {"tokenizer", "processor"}  # checkpoints of older releases say nothing of them
_ROWS = {"data", "supervise", "double_bos", "replay_share"}  # with these the rows' tokens change anyway

RECOMPUTE, SHARDED = "recompute", "sharded"

Identity = dict[str, Any]


def identity(
    settings: TrainSettings,
    base: BaseModelId,
    data: dict[str, Any],
    dtype: mx.Dtype | None,
    readings: dict[str, Any],
) -> Identity:
    """What must not change while a run goes on, by the names that `--resume-anyway` takes.

    `readings`: what tokenizer and processor make of the rows.
    `RECOMPUTE` and `SHARDED`, which are added to it, are no such names: what was chosen at first is kept.
    """
    hashes = {split: about["sha256"] for split, about in data.items() if isinstance(about, dict)}
    rest = {"model": base.fingerprint, "data": hashes, "dtype": dtype and str(dtype)}
    return _settings(settings) | rest | readings


def _settings(settings: TrainSettings) -> Identity:
    return settings.model_dump(mode="json", exclude=_FREE)


def accepted(anyway: Collection[str], resume: bool) -> frozenset[str]:
    """The names given to `--resume-anyway`, checked. Raises InputError for an unknown one."""
    if anyway and not resume:
        raise InputError("--resume-anyway is given without --resume", hint="Add --resume.")
    names = frozenset(name.strip().replace("-", "_") for name in anyway)
    known = {*TrainSettings.model_fields, *_REST} - _FREE
    if unknown := sorted(names - known):
        raise InputError(
            f"--resume-anyway: nothing is called {', '.join(unknown)}",
            hint=f"It takes {', '.join(_REST)} and names of settings: {', '.join(sorted(known - {*_REST}))}.",
        )
    return names


def find(work: Workplace) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a remark on each that was not, which is set aside.

    Raises InputError where there are checkpoints and all are damaged, MedloraError or OSError where one
    cannot be read this time.
    """
    remarks: list[str] = []
    directories = newest_first(work.checkpoints)
    for index, directory in enumerate(directories):
        try:
            found = read_checkpoint(directory)
        except InputError as error:
            remarks.append(str(error))
            continue
        kept = [set_aside(damaged).name for damaged in directories[:index]]
        return found, [f"{remark}; kept as {name}" for remark, name in zip(remarks, kept, strict=True)]
    if directories:
        raise InputError(f"no checkpoint can be read: {'; '.join(remarks)}", path=work.path)
    return None, []


def refuse_changed_settings(before: Identity, settings: TrainSettings, anyway: Collection[str]) -> None:
    """`refuse_changes` as far as it is known before model and data are read."""
    rest = {name: before.get(name) for name in _REST}
    refuse_changes(before, _settings(settings) | rest, anyway)


def refuse_changes(before: Identity, now: Identity, anyway: Collection[str]) -> list[str]:
    """The names of what changed and was accepted by `anyway`.

    Raises Changed naming each change that was not, with both values, and a change of the adapter's shape.
    """
    named = {*before, *now} - {RECOMPUTE, SHARDED} - (_READ - {*before})
    differing = [name for name in sorted(named) if _of(before, name) != _of(now, name)]
    if "tokenizer" in differing and _ROWS & set(differing):
        differing.remove("tokenizer")
    if shape := sorted(_SHAPE & set(differing)):
        raise Changed(
            f"the adapter's shape cannot change within a run: {_listed(shape, before, now)}",
            hint="Continue with the old values, or train anew with another --output.",
        )
    refused = [name for name in differing if name not in anyway]
    if refused:
        flags = ",".join(name.replace("_", "-") for name in refused)
        raise Changed(
            f"changed since the checkpoint: {_listed(refused, before, now)}",
            hint=f"Accept the change with --resume-anyway {flags}, or continue with what it was.",
        )
    return differing


def _of(identity: Identity, name: str) -> Any:
    """A value, or the default of a setting that a run of an older release did not know."""
    field = TrainSettings.model_fields.get(name)
    return identity.get(name, None if field is None else field.default)


def keeps_order(accepted: Collection[str]) -> bool:
    """Whether the rows of the epoch under way still come in the order in which they came so far."""
    return not _ORDER & set(accepted)


def keeps_schedule(accepted: Collection[str]) -> bool:
    """Whether the rate goes on from where it was; else it is that of the new schedule at this update."""
    return not _COURSE & set(accepted)


def _listed(names: Collection[str], before: Identity, now: Identity) -> str:
    return "; ".join(_told(name, before.get(name), now.get(name)) for name in names)


def _told(name: str, before: Any, now: Any) -> str:
    if name in ("data", "tokenizer"):
        splits = sorted({*(before or {}), *(now or {})})
        changed = ", ".join(s for s in splits if (before or {}).get(s) != (now or {}).get(s))
        return (
            f"data ({changed})"
            if name == "data"
            else f"tokenizer or chat template (other tokens in {changed})"
        )
    if name == "processor":
        return "processor (other pixels of the same image)"
    if name == "model":
        return f"model (fingerprint {str(before)[:12]} then, {str(now)[:12]} now)"
    return f"{name} was {_plain(before)}, is {_plain(now)}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def pack(found: Checkpoint | None) -> bytes:
    """A checkpoint as bytes for the other ranks; empty where there is none."""
    if found is None:
        return b""
    texts = {STATE: found.state.model_dump_json().encode(), TIMES: found.times.model_dump_json().encode()}
    return save({name: np.frombuffer(content, np.uint8) for name, content in (found.files | texts).items()})


def unpack(blob: bytes) -> Checkpoint | None:
    """What `pack` was given."""
    return parse({name: array.tobytes() for name, array in load(blob).items()}) if blob else None
