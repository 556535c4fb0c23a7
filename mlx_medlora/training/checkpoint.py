"""A checkpoint on disk: everything that decides how a run goes on, in safetensors and JSON.

step-000123/
    adapters.safetensors  adapter_config.json    the adapter then; loads like any other
    training_data.json                           what is known of the data behind it, and its mark
    best/                                        the best so far, where that is another
    optimizer.safetensors                        AdamW's moments and its count of updates
    random.json                                  MLX's, Python's and NumPy's generators
    state.json                                   place in the run, what it computed, sizes and hashes
    timings.json                                 seconds; the one file that equal runs differ in
"""

from __future__ import annotations

import errno
import json
import random
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import mlx.core as mx
import numpy as np
from mlx.optimizers import Optimizer
from mlx.utils import tree_flatten
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.files import keep_private, sha256, sync_tree, write_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.lora.adapter import WEIGHTS
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.schedule import Course
from mlx_medlora.training.workplace import put

STATE, TIMES, MOMENTS, RANDOM = "state.json", "timings.json", "optimizer.safetensors", "random.json"
BEST = "best"
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # damage; other OSErrors are this moment's
Files = dict[str, bytes]


class Place(StrictModel):
    """Where a run stands: `updates` of `epoch` are done, with this loss over so many supervised tokens.

    Epoch 0 stands for the base's validation before training. Checkpoints fall between updates, so the
    accumulation window is always empty in them.
    """

    epoch: int = 0
    updates: int = 0
    nll: float = 0.0
    tokens: int = 0


class State(StrictModel):
    """The contents of `state.json`. `files` gives each file's SHA-256, `identity` what may not change.

    `trained`: all updates of the epoch are done, and its validation comes next. `course` is where the updates
    stand on the schedule. Older releases wrote neither.
    """

    format_version: Literal[1] = 1
    step: int
    place: Place
    trained: bool = False
    course: Course | None = None
    best_epoch: int | None
    epochs: list[dict[str, Any]]
    metrics_bytes: int
    identity: dict[str, Any]
    versions: dict[str, str]
    files: dict[str, str] = Field(default_factory=dict)


class Times(StrictModel):
    """The contents of `timings.json`: seconds and peak bytes of the run so far, seconds of each epoch."""

    seconds: float
    peak_memory: int
    timings_bytes: int
    epochs: list[float]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole; `files` by their names in it."""

    state: State
    times: Times
    files: Files


def write_checkpoint(target: Path, fill: Callable[[Path], None], state: State, times: Times) -> None:
    """Write a checkpoint beside `target`, flush it to the disk, rename it, and read it back.

    `fill` writes all other files into the directory it is given. Raises OSError where the disk is full or
    refuses, InputError where what is read differs.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial.mkdir(mode=0o700)
    try:
        fill(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        hashes = {path.relative_to(partial).as_posix(): sha256(path) for path in files}
        write_json(partial / TIMES, times.model_dump(mode="json"))
        write_json(partial / STATE, state.model_copy(update={"files": hashes}).model_dump(mode="json"))
        keep_private(partial)
        sync_tree(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # where the disk is full, its room is needed
        raise
    put(partial, target, _check)


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read a checkpoint whole. Raises InputError naming what is damaged.

    What cannot be read this time (too many open files, a share that is away) says nothing of the checkpoint:
    MedloraError, and for open files and memory the OSError itself.
    """
    try:
        _check(directory)
        state = _state(directory)
        needed = {WEIGHTS, RANDOM, *([MOMENTS] if state.step else [])}
        if lacking := sorted(needed - set(state.files)):
            raise InputError(f"damaged: it does not name {', '.join(lacking)}", path=directory / STATE)
        names = [*state.files, STATE, TIMES]
        return parse({name: (directory / name).read_bytes() for name in names})
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise  # these have words of their own
        reason = error.strerror or str(error)
        raise MedloraError(
            f"{error.filename or directory}: cannot be read: {reason}; nothing was changed",
            hint=f"Try again. If it stays so, move {directory} away: the checkpoint before it is taken then.",
        ) from error


def parse(files: Files) -> Checkpoint:
    """A checkpoint from the contents of all its files."""
    rest = {name: content for name, content in files.items() if name not in (STATE, TIMES)}
    state = State.model_validate_json(files[STATE])
    return Checkpoint(state, Times.model_validate_json(files[TIMES]), rest)


def is_validated(directory: Path) -> bool:
    """Whether a checkpoint stands at the end of an epoch, its validation done; False where it is damaged."""
    try:
        return _state(directory).place.updates == 0
    except InputError:
        return False


def _state(directory: Path) -> State:
    path = directory / STATE
    try:
        return State.model_validate_json(path.read_bytes())
    except (*_GONE, ValidationError) as error:
        raise InputError("damaged or of another release", path=path) from error


def _check(directory: Path) -> None:
    for name, expected in _state(directory).files.items():
        path = directory / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"damaged: it names the file {name!r:.200}", path=directory / STATE)
        if not _is_file(path) or sha256(path) != expected:
            raise InputError("damaged: it is not what was written", path=path)
    try:
        Times.model_validate_json((directory / TIMES).read_bytes())
    except (*_GONE, ValidationError) as error:
        raise InputError("damaged", path=directory / TIMES) from error


def _is_file(path: Path) -> bool:
    """Whether a file is there; unlike `Path.is_file`, raises OSError where that cannot be told."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except _GONE:
        return False


def moments(optimizer: Optimizer) -> bytes:
    """The optimiser's state, its rate left out, as a safetensors file."""
    leaves: dict[str, mx.array] = dict(tree_flatten(optimizer.state))
    return save({name: np.array(leaf) for name, leaf in leaves.items() if name != "learning_rate"})


def restore_moments(optimizer: Optimizer, model: Base, content: bytes) -> None:
    """Put a state from `moments` into `optimizer`, in place: a compiled step holds the same dictionaries.

    Raises InputError where it is that of another adapter.
    """
    optimizer.init(model.trainable_parameters())
    with _damage(MOMENTS):
        found = {name: mx.array(value) for name, value in load(content).items()}
    leaves: dict[str, mx.array] = dict(tree_flatten(optimizer.state))
    shapes = {name: leaf.shape for name, leaf in leaves.items() if name != "learning_rate"}
    if shapes != {name: value.shape for name, value in found.items()}:
        raise InputError("the checkpoint's moments are those of another adapter", path=MOMENTS)
    _fill(optimizer.state, found, "")


def _fill(tree: Any, found: dict[str, mx.array], prefix: str) -> None:
    """Replace the leaves of nested dictionaries and lists by those named in `found`."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        name = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            _fill(value, found, f"{name}.")
        elif name in found:
            tree[key] = found[name].astype(value.dtype)


def restore_adapter(model: Base, content: bytes) -> None:
    """Give `model` the trained values in a safetensors file. Raises InputError where they do not fit."""
    leaves: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    with _damage(WEIGHTS):
        found = load(content)
    if {name: leaf.shape for name, leaf in leaves.items()} != {n: v.shape for n, v in found.items()}:
        raise InputError("the checkpoint's adapter has another shape than these settings give", path=WEIGHTS)
    model.load_weights([(n, mx.array(v).astype(leaves[n].dtype)) for n, v in found.items()], strict=False)
    mx.eval(model.trainable_parameters())


@contextmanager
def _damage(name: str) -> Iterator[None]:
    """Say that a checkpoint's file makes no sense, whatever its reader raises."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"damaged: it makes no sense ({error})", path=name) from error
    except SafetensorError as error:
        raise InputError(f"damaged: {error}", path=name) from error


def random_states() -> bytes:
    """The states of the generators that anything in a run may draw from."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return json.dumps(
        {
            "mlx": np.array(next(iter(mx.random.state))).tolist(),  # type: ignore[call-overload]
            "python": [version, list(internal), gauss],
            "numpy": [str(name), np.asarray(keys).tolist(), position, has_gauss, cached],
        }
    ).encode()


def restore_random(content: bytes) -> None:
    """Continue the generators where `random_states` saw them."""
    with _damage(RANDOM):
        states = json.loads(content)
        high, low = states["mlx"]
        mx.random.seed(high << 32 | low)  # the key of a seed is its two halves
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        name, keys, *rest = states["numpy"]
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def seed_all(seed: int) -> None:
    """Begin the same generators at `seed`: a validator that samples then gives the same figures again."""
    mx.random.seed(seed)
    random.seed(seed)
    np.random.seed(seed)
