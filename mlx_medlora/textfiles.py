"""Text files from strangers: regular files only, of a bounded size, UTF-8 without NUL; faults have a line."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mlx_medlora.errors import InputError

MIB = 2**20
SETTINGS_BYTES = 16 * MIB  # a settings file: config.json, an index, adapter_config.json
LINE_CHARACTERS = 1_000_000  # a row of text that no model's context holds
TABLE_BYTES = 96 * MIB  # a table that is read whole: a JSON array

_UTF8 = "Save the file as UTF-8 (in Excel: 'CSV UTF-8')."


def open_regular(path: Path) -> IO[bytes]:
    """Open a file for reading; a pipe or a device, which may never end, is refused.

    Raises InputError where it is absent, a directory or no regular file; OSError where it may not be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    kind = "is a directory; a file was expected" if stat.S_ISDIR(mode) else "is not a regular file"
    raise InputError(kind, path=path)


def read_text(path: Path, limit: int = SETTINGS_BYTES) -> str:
    """A whole file of at most `limit` bytes as text: no byte order mark, every line end a newline.

    Raises InputError for a larger file and, with the line, for text that is not UTF-8 or holds NUL.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise InputError(f"the file has {size:,} bytes; {limit:,} is the most that is read", path=path)
        content = stream.read(size)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8 text", path=path, line=line, hint=_UTF8) from error
    if "\0" in text:
        raise _nul(path, text.count("\n", 0, text.index("\0")) + 1)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its end); one line at a time is in memory.

    Raises InputError, with the line, for text that is not UTF-8, holds NUL, or is absurdly long.
    """
    with open_regular(path) as raw, _as_text(raw) as stream:
        line = 0
        while text := stream.readline(LINE_CHARACTERS + 1):
            line += 1
            if len(text) > LINE_CHARACTERS:
                limit = f"{LINE_CHARACTERS:,} characters are the most that a row may have"
                raise InputError(f"the line is too long: {limit}", path=path, line=line)
            if "\0" in text:
                raise _nul(path, line)
            if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
                raise InputError("not UTF-8 text", path=path, line=line, hint=_UTF8)
            yield line, text.rstrip("\n")


def _as_text(raw: IO[bytes]) -> IO[str]:
    """`raw` as text without its byte order mark; bytes that are not UTF-8 come as surrogates."""
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=None)


def _nul(path: Path, line: int) -> InputError:
    return InputError("holds a NUL byte: a binary file, or UTF-16 text?", path=path, line=line, hint=_UTF8)
