"""Files and directories that are complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlx_medlora.errors import InputError, NoSpace

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def refuse_nonempty(target: Path) -> None:
    """Raise InputError unless `target` is absent or an empty directory."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise InputError("exists and is not a directory", path=target, hint="Choose another --output.")
    if target.is_dir() and any(target.iterdir()):
        raise InputError(
            "the output directory exists and is not empty",
            path=target,
            hint="Choose another directory, or remove this one first.",
        )


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory beside `target`; rename it to `target` when the block ends well.

    On any exception the new directory is removed and `target` stays as it was.
    Raises InputError where `target` exists and is not an empty directory or its parent cannot be
    written, NoSpace where the disk is full.
    """
    target = Path(os.path.abspath(target))
    refuse_nonempty(target)
    with plain_os_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        work.chmod(0o777 & ~_umask())  # mkdtemp gives 0700: what is written here may be for others to read
    try:
        with plain_os_errors(target):
            yield work
            sync_tree(work)
            os.replace(work, target)
            sync_path(target.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def plain_os_errors(target: Path) -> Iterator[None]:
    """Turn a full disk or a refused write under `target` into an error for people."""
    try:
        yield
    except Exception as error:
        if disk_is_full(error):
            raise NoSpace(
                f"no space left on the disk while writing {target}; nothing was kept",
                hint="Free some space or choose an --output on another disk.",
            ) from error
        if isinstance(error, OSError) and error.errno in _REFUSED:
            reason = os.strerror(error.errno)
            raise InputError(f"cannot write: {reason}", path=error.filename or target) from error
        raise


def disk_is_full(error: BaseException) -> bool:
    """Whether `error` says that there is no space left: an OSError, or safetensors' own with its number."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    if type(error).__name__ != "SafetensorError":
        return False
    return any(f"(os error {code})" in str(error) for code in _FULL)


def sync_path(path: Path) -> None:
    """Flush one file's, or one directory's, data to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
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


def write_json_whole(path: Path, value: object) -> None:
    """As `write_json`, in one move: what stood there before stays, or the new file is complete.

    Raises InputError or NoSpace where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with plain_os_errors(path):
        try:
            write_json(partial, value)
            sync_path(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_text_whole(path: Path, text: str) -> None:
    """Write UTF-8 text in one move: what stood there before stays, or the new file is complete.

    Raises InputError or NoSpace where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with plain_os_errors(path):
        try:
            partial.write_text(text, encoding="utf-8", newline="\n")
            sync_path(partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    """Write one JSON object a line; NaN is refused (ValueError)."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises InputError (with the line) where it is absent or malformed."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", path=path) from error
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", path=path, line=error.lineno) from error
    except RecursionError as error:
        raise InputError("JSON is nested too deeply", path=path) from error
