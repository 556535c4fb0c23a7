"""Where a run lives until it is complete: `.NAME.run` beside its output, owned by one process."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_medlora.atomic import refuse_nonempty
from mlx_medlora.errors import Changed, InputError, Interrupted, MedloraError, NotANumber
from mlx_medlora.files import disk_is_full, keep_private, plain_os_errors, sync_path, sync_tree, why_full
from mlx_medlora.training.log import TIMINGS

CHECKPOINTS = "checkpoints"
FINISHED = "run.json"  # the last file that a run writes
_OWNER = "owner.json"  # the lock; the system releases it when its process ends, however it ends


class Workplace:
    """A run's own directory, locked by this process; renamed to `output` when the run is complete."""

    def __init__(self, output: Path, path: Path, lock: int) -> None:
        self.output, self.path, self.lock = output, path, lock

    @classmethod
    def open(cls, output: Path, *, resume: bool) -> Workplace:
        """Take the directory of the run that writes `output`: with `resume` the one there is, else a new one.

        What a run left that had saved no update yet is replaced: nothing is lost with it.
        Raises InputError where `output` is taken or complete, another process owns the directory, it holds a
        run and `resume` is false, or there is no run to resume.
        """
        shown, output = output, Path(os.path.abspath(output))  # "." has a name and a parent only then
        path = output.with_name(f".{output.name}.run")
        if resume and (output / FINISHED).is_file():
            raise _complete(shown, output, path)
        refuse_nonempty(shown)
        if resume and not path.is_dir():
            raise InputError(
                "there is no run to resume",
                path=output,
                hint="Start it with the same command without --resume.",
            )
        with plain_os_errors(output):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)
            work = cls(output, path, _take(path))
        mend(work.checkpoints)
        shutil.rmtree(work.finished, ignore_errors=True)
        if work.has_trained and not resume:
            os.close(work.lock)
            raise InputError(
                f"an interrupted run for this output is in {path}",
                path=output,
                hint=f"Add --resume to continue it, or remove it: rm -r {path}",
            )
        if not resume or not newest_first(work.checkpoints):
            _clear(path)
        return work

    @property
    def checkpoints(self) -> Path:
        """The directory of the run's checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def has_trained(self) -> bool:
        """Whether some update is in a checkpoint."""
        return any(path.name.strip("step-0") for path in newest_first(self.checkpoints))

    @property
    def finished(self) -> Path:
        """Where the output is put together before it is renamed."""
        return self.path / "output"

    def complete(self) -> None:
        """Rename `finished` to the output; the run is then over. Killed before that, it can be resumed.

        Raises InputError where something has taken the output's name meanwhile: the run stays.
        """
        keep_private(self.finished)
        sync_tree(self.finished)
        with plain_os_errors(self.output):
            os.replace(self.finished, self.output)
        sync_path(self.output.parent)
        self._remove()

    def wrote(self, output: Path) -> bool:
        """Whether the finished run in `output` is this directory's: its seconds, update by update, say so."""
        try:
            return (self.path / TIMINGS).read_bytes() == (output / TIMINGS).read_bytes()
        except FileNotFoundError:
            return False

    def _remove(self) -> None:
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # first: what a kill leaves holds no run then
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)

    def close(self) -> None:
        """Give the directory up. It stays where an update is saved in it, and is removed otherwise."""
        if self.has_trained:
            os.close(self.lock)
        else:
            self._remove()


def _complete(shown: Path, output: Path, path: Path) -> InputError:
    """That there is nothing to resume; what its process left is removed, killed just after the last rename.

    Another run that was interrupted under the same name stays. Raises InputError where it is going on.
    """
    told = "this run is complete: there is nothing to resume"
    if not path.is_dir():
        return InputError(told, path=shown)
    with plain_os_errors(output):
        work = Workplace(output, path, _take(path))
        mend(work.checkpoints)
        if not work.has_trained or work.wrote(output):
            work._remove()
            return InputError(told, path=shown)
    os.close(work.lock)
    return InputError(
        f"this run is complete, and {path} holds another one, which was interrupted",
        path=shown,
        hint=f"To continue that one, move {shown} away first; to drop it: rm -r {path}",
    )


@contextmanager
def ending(work: Workplace | None, again: str) -> Iterator[None]:
    """Give `work` up where the block fails, and add to the error how the run is continued.

    A full disk is an error of the run where a state is saved (it can go on), else of its input.
    """
    try:
        yield
    except BaseException as error:
        if work is None:
            raise
        saved = f"The run is saved in {work.path}; continue with: {again}" if work.has_trained else None
        if saved is not None and isinstance(error, NotANumber):
            saved += " (a lower --lr takes --resume-anyway lr)"
        work.close()
        if saved is None:
            with plain_os_errors(work.output):
                raise
        if disk_is_full(error):
            message = f"{why_full(error)} while training {work.output}; the last checkpoint is whole"
            raise MedloraError(message, hint=f"Free some space. {saved}") from error
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted("interrupted; the last checkpoint is whole", hint=saved) from error
        if isinstance(error, MedloraError) and not isinstance(error, Changed):
            error.hint = f"{error.hint.removesuffix('.')}. {saved}" if error.hint else saved
        raise


def newest_first(checkpoints: Path) -> list[Path]:
    """The complete checkpoints in a directory, by their step."""
    found = [path for path in checkpoints.glob("step-*") if path.is_dir() and _step(path).isdecimal()]
    return sorted(found, key=lambda path: int(_step(path)), reverse=True)  # names stop sorting at a million


def set_aside(checkpoint: Path, why: str = "damaged") -> Path:
    """Give a checkpoint another name, under which nothing uses it, or removes it before the run ends."""
    target = checkpoint.with_name(f"{checkpoint.name}.{why}")
    number = 1
    while target.exists():
        number += 1
        target = checkpoint.with_name(f"{checkpoint.name}.{why}-{number}")
    os.replace(checkpoint, target)
    return target


def _step(path: Path) -> str:
    return path.name.removeprefix("step-")


def mend(checkpoints: Path) -> None:
    """Undo what a process left that ended while it wrote a checkpoint."""
    for old in checkpoints.glob(".step-*.old"):
        target = checkpoints / old.name.removeprefix(".").removesuffix(".old")
        if target.exists():
            shutil.rmtree(old)
        else:
            os.replace(old, target)
    for partial in checkpoints.glob(".step-*.partial"):
        shutil.rmtree(partial)


def put(partial: Path, target: Path, check: Callable[[Path], None]) -> None:
    """Rename a written and synced directory to `target`, also where one of that name is there.

    That one goes once `check` has found the new one whole, and comes back where it raises.
    """
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(partial, target)
    sync_path(target.parent)
    try:
        check(target)
    except BaseException:
        if old.exists():
            shutil.rmtree(target)
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _take(path: Path) -> int:
    """Lock the directory. Raises InputError naming the process that has it."""
    descriptor = os.open(path / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _names(path / _OWNER, descriptor):
            raise BlockingIOError  # that run was completed, and so renamed, since the file was opened
    except BlockingIOError as error:
        owner = _owner(descriptor)
        os.close(descriptor)
        raise InputError(
            f"another run writes here: process {owner.get('pid', '?')} on {owner.get('host', '?')}",
            path=path,
            hint="Wait for it, stop it, or choose another --output.",
        ) from error
    except OSError as error:  # some network disks
        os.close(descriptor)
        raise InputError(
            f"this disk cannot keep two runs apart: locking a file gives {os.strerror(error.errno or 0)!r}",
            path=path,
            hint="Choose an --output on a local disk, and copy the finished adapter.",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode() + b"\n", 0)
    return descriptor


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` is the open file."""
    return path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor))


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it is just being written
        return {}
    return found if isinstance(found, dict) else {}


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == _OWNER:
            continue
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
