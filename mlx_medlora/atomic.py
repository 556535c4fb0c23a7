"""Files and directories that are complete or absent."""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlx_medlora.errors import InputError
from mlx_medlora.files import keep_private, plain_os_errors, sync_path, sync_tree


def refuse_nonempty(target: Path) -> None:
    """Raise InputError unless `target` is absent or an empty directory that can be replaced."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError("exists and is not a directory", path=target, hint="Choose another --output.")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            "the output directory exists and is not empty",
            path=target,
            hint="Choose another directory, or remove this one first.",
        )
    if os.path.ismount(target):
        hint = f"Choose a directory inside it, as {target / 'output'}."
        raise InputError("is a disk's own directory, which cannot be replaced", path=target, hint=hint)


@contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the directories above `target`; afterwards those go again that nothing was put into."""
    made = [path for path in target.parents if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def refuse_unwritable(target: Path) -> None:
    """Raise InputError unless a directory can take the place of `target`: asked before hours of work."""
    refuse_nonempty(target)
    target = Path(os.path.abspath(target))
    with plain_os_errors(target), _parents(target):
        os.rmdir(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))


@contextmanager
def atomic_directory(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a new directory beside `target`; rename it to `target` when the block ends well.

    On any exception the new directory is removed and `target` stays as it was. `private`: what may hold
    something of patients is for the user alone (0700, files 0600), whatever the umask. What a process left
    that was killed meanwhile, `.NAME.XXXXXXXX.partial`, is removed by the next one that writes `target`.
    Raises InputError where `target` exists and is not an empty directory or its parent cannot be
    written, NoSpace where the disk is full.
    """
    target = Path(os.path.abspath(target))
    refuse_nonempty(target)
    with plain_os_errors(target), _parents(target), _replacing(target, private) as work:
        yield work


@contextmanager
def _replacing(target: Path, private: bool) -> Iterator[Path]:
    with plain_os_errors(target):
        _clear_abandoned(target)
        work, lock = _new_partial(target)
    try:
        with plain_os_errors(target):
            if not private:
                work.chmod(0o777 & ~_umask())  # mkdtemp gives 0700: this may be for others to read
            yield work
            if private:
                keep_private(work)
            sync_tree(work)
            os.replace(work, target)
            sync_path(target.parent)
    except BaseException:
        os.close(lock)  # first: removing opens directories, of which there may be too many
        shutil.rmtree(work, ignore_errors=True)
        raise
    os.close(lock)


def _new_partial(target: Path) -> tuple[Path, int]:
    """A new directory beside `target`, and the descriptor whose lock says that it is in use."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            lock = os.open(work, os.O_RDONLY)
        except OSError:  # too many open files
            os.rmdir(work)
            raise
        with suppress(OSError):  # a disk without locks: nothing is ever cleared there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if work.is_dir():
            return work, lock
        os.close(lock)  # another process took it for abandoned before it was locked


def _clear_abandoned(target: Path) -> None:
    """Remove the directories of processes that were killed while they wrote `target`: no lock is on them."""
    left = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}\.partial")
    for path in [path for path in target.parent.iterdir() if left.fullmatch(path.name)]:
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(lock)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_file(target: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield the name of a new file beside `target`; rename it to `target` when the block ends well.

    What stood there stays until then, and after any exception. `private`: its owner's alone (0600) from the
    beginning. What processes of this machine left beside `target` that were killed is removed: no lock is on
    it. Raises InputError or NoSpace where it cannot be written.
    """
    with plain_os_errors(target):
        _clear_partials(target)
        partial, lock = _new_partial_file(target)
        try:
            if not private:
                os.fchmod(lock, 0o666 & ~_umask())  # mkstemp gives 0600
            yield partial
            sync_path(partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
            os.close(lock)


def _partial_prefix(target: Path) -> str:
    """How names of partial files of this machine begin: on a shared disk, locks may not reach the others."""
    return f".{target.name}.{hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]}."


def _new_partial_file(target: Path) -> tuple[Path, int]:
    """A new file beside `target`, and the descriptor whose lock says that it is in use."""
    while True:
        lock, name = tempfile.mkstemp(prefix=_partial_prefix(target), suffix=".partial", dir=target.parent)
        with suppress(OSError):  # a disk without locks: nothing is ever cleared there
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return Path(name), lock
        os.close(lock)  # another process took it for abandoned before it was locked


def _clear_partials(target: Path) -> None:
    """Remove the files of processes that were killed while they wrote `target`.

    A lock says who is at work, not a process number: that of another container means nothing here.
    """
    for left in target.parent.glob(f"{glob.escape(_partial_prefix(target))}*.partial"):
        with suppress(OSError):
            lock = os.open(left, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
            finally:
                os.close(lock)
