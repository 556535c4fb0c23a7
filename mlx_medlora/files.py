"""Files: JSON, hashes, permissions, what reaches the disk, and what a disk refuses."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlx_medlora.errors import InputError, NoSpace
from mlx_medlora.jsontext import parse_json
from mlx_medlora.textfiles import read_text

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: FAT32 beyond 4 GiB, `ulimit -f`
_REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY),
    *(errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP, errno.EBUSY, errno.EXDEV, errno.EILSEQ),
)


def keep_private(path: Path) -> None:
    """Give a file, or a directory with all that is in it, to its owner alone: 0600, directories 0700."""
    if not path.is_dir():
        path.chmod(0o600)
        return
    path.chmod(0o700)
    for folder, directories, names in os.walk(path):
        for name in directories:
            (Path(folder) / name).chmod(0o700)
        for name in names:
            (Path(folder) / name).chmod(0o600)


def private_opener(name: str, flags: int) -> int:
    """For `open(..., opener=private_opener)`: a file that is made is its owner's alone."""
    return os.open(name, flags, 0o600)


@contextmanager
def plain_os_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a refused write under `target` into an error for people."""
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise NoSpace(
                f"{why_full(error)} while writing {target}; nothing was kept",
                hint="Free some space or choose an --output on another disk.",
            ) from error
        if isinstance(error, OSError) and error.errno in _REFUSED:
            reason = os.strerror(error.errno)
            raise InputError(
                f"cannot write: {reason}", path=error.filename2 or error.filename or target
            ) from error
        raise


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that there is no space left: an OSError, or safetensors' own with its number."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    if type(error).__name__ != "SafetensorError":
        return False
    return any(f"(os error {code})" in str(error) for code in _FULL)


def why_full(error: BaseException) -> str:
    """What a person reads of an error that is `disk_is_full`."""
    if f"(os error {errno.EFBIG})" in str(error) or getattr(error, "errno", None) == errno.EFBIG:
        return "a file grew larger than the disk (FAT32: 4 GiB) or `ulimit -f` allows"
    return "no space left on the disk"


def sync_path(path: Path) -> None:
    """Flush one file's, or one directory's, data to the disk.

    On macOS fsync leaves them in the drive's own cache, which a power cut empties; F_FULLFSYNC does not
    (fsync(2) there). Disks that do not know it (network, FAT) get what they have.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:
            with suppress(OSError):
                fcntl.fcntl(descriptor, full)
                return
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(root: Path) -> None:
    """Flush every file and directory under `root` to the disk."""
    for folder, _, names in os.walk(root):
        for name in names:
            sync_path(Path(folder) / name)
        sync_path(Path(folder))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented UTF-8 JSON with a final newline; NaN is refused (ValueError)."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write one JSON object a line; NaN is refused (ValueError)."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file of settings. Raises InputError (with the line) where it is absent or malformed."""
    return parse_json(read_text(path), path)
