"""The store's size: what is there, and what goes when there is no room for more."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mlx_medlora.features.shard import PARTIAL, SUFFIX

_ABANDONED = 3600.0  # seconds after which a half-written file's process is taken for dead


def make_room(root: Path, wanted: int, limit: int, keep: Collection[Path]) -> int:
    """Bytes that may be written under `root`: `wanted`, or fewer where `limit` is reached all the same.

    The least recently used files of all models go first; those in `keep` stay.
    """
    files = sorted((status.st_mtime, status.st_size, path) for path, status in _files(root))
    free = limit - sum(size for _, size, _ in files)
    for _, size, path in files:
        if free >= wanted:
            break
        if path not in keep:
            with suppress(FileNotFoundError):  # another process was faster
                path.unlink()
            free += size
    return max(0, min(wanted, free))


def touch(path: Path) -> None:
    """Note that a file was used now."""
    with suppress(OSError):
        os.utime(path)


def clear_abandoned(root: Path) -> None:
    """Remove what processes that were killed left half-written under `root`."""
    for path in root.glob(f"*/*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()


def _files(root: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in root.glob(f"*/*{SUFFIX}"):
        with suppress(OSError):
            found.append((path, path.stat()))
    return found
