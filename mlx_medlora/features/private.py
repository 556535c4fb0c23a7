"""Directories and small files that only their owner may read: features say something of patients."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def make_private(directory: Path) -> None:
    """Make `directory`, 0700, unless it is there; what lies above it is made as usual. Raises OSError."""
    if not directory.is_dir():
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a small file, 0600, beside and then renamed. Raises OSError."""
    partial = path.with_name(f".{uuid4().hex}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
