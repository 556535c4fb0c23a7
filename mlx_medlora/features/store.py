"""Features on disk, by the SHA-256 of the image file, for all runs that compute the same bits.

Layout: one directory for each identity, in it `about.json` and any number of shards. Processes share a
store without locks: each writes files of its own, renamed into place, and takes a file that is gone for one
that never was. Features say something of the patient: directories are 0700, files 0600.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import mlx.core as mx

from mlx_medlora.features import room
from mlx_medlora.features.identity import Identity
from mlx_medlora.features.private import make_private, write_private
from mlx_medlora.features.shard import (
    OVERHEAD,
    SUFFIX,
    Shard,
    Unusable,
    checksum,
    open_map,
    read_shard,
    to_array,
    to_bytes,
    write_shard,
)

_SHARD_BYTES = 64 * 2**20  # lost where a process is killed, and held in memory until then
_OPEN_MAPS = 16
_ROWS = 2**20  # more than a shard has
_README = """Image features and hidden states that mlx-medlora computed from a dataset. They say something of
the patients: treat them as patient data. They can be removed at any time, and are then computed again.
"""

Tell = Callable[[str], None]


class Store:
    """A store opened for one identity. `limit` in bytes is of everything under `root`.

    `full` is True once the limit leaves no room, `broken` says why nothing can be written, `lost` which keys
    were there and could not be read, and why. `tell` hears of each damaged or foreign file once, in words
    for `what` is kept. `used` are files that making room spares: stores of one run share the set.
    """

    def __init__(
        self,
        root: Path,
        identity: Identity,
        limit: int,
        tell: Tell,
        *,
        used: set[Path] | None = None,
        what: str = "image features",
    ) -> None:
        self.root, self.identity, self.limit, self.tell, self.what = root, identity, limit, tell, what
        self._cost = identity.nbytes + OVERHEAD
        self._shard_bytes = max(self._cost, min(_SHARD_BYTES, limit // 8))
        self.directory = root / identity.digest[:32]
        self.full = False
        self.broken: str | None = None
        self.lost: dict[bytes, str] = {}
        self._index: dict[bytes, int] = {}  # key -> shard's number x _ROWS + row
        self._shards: dict[int, Shard] = {}
        self._seen: set[Path] = set()
        self.used: set[Path] = set() if used is None else used
        self._maps: OrderedDict[int, memoryview] = OrderedDict()
        self._pending: dict[bytes, bytes] = {}
        self._budget = 0
        self.refresh()
        room.clear_abandoned(root)

    def __contains__(self, key: bytes) -> bool:
        """Whether the store says it has the features; `holds` looks."""
        return key in self._pending or key in self._index

    def refresh(self) -> None:
        """Take notice of files that this or another process has added."""
        try:
            names = sorted(entry.path for entry in os.scandir(self.directory) if entry.name.endswith(SUFFIX))
        except OSError:
            return
        for path in map(Path, names):
            if path not in self._seen:
                self._seen.add(path)
                self._take(path)

    def holds(self, key: bytes) -> bool:
        """True where the features are there and their checksum is right; a bad file is let go of."""
        return key in self._pending or self._checked(key) is not None

    def get(self, key: bytes) -> mx.array | None:
        """Features (T, D), or None where there are none that can be used."""
        if key in self._pending:
            return to_array(self._pending[key], self.identity)
        data = self._checked(key)
        return None if data is None else to_array(data, self.identity)

    @property
    def pending(self) -> bool:
        """Whether something that was put waits to be written."""
        return bool(self._pending)

    def claim(self, keys: Iterable[bytes]) -> None:
        """Have the files that hold `keys` spared, here and in stores that share `used`; nothing is read."""
        for number in {self._index[key] // _ROWS for key in keys if key in self._index}:
            self._use(self._shards[number].path)

    def has_room(self) -> bool:
        """Whether one more image may be kept; what was used least recently is removed for it."""
        if self.full or self.broken is not None:
            return False
        if not self._pending:
            self._budget = room.make_room(self.root, self._shard_bytes, self.limit, self.used)
            self.full = self._budget < self._cost
        return not self.full

    def put(self, key: bytes, array: mx.array) -> bool:
        """Keep features (T, D); False where the limit or the disk does not allow it, or they do not fit."""
        if not self.has_room():
            return False
        wanted, found = (self.identity.shape, self.identity.dtype), (array.shape, array.dtype)
        if found != wanted:  # a file of these would be taken for damaged
            self._break(f"{self.directory} is for {wanted}, and these are {found}")
            return False
        self._pending[key] = to_bytes(array)
        if (len(self._pending) + 1) * self._cost > self._budget:
            self.flush()
        return True

    def flush(self) -> None:
        """Write what was put. Where that fails it stays in memory, and `broken` and `tell` say so."""
        if not self._pending or self.broken is not None:
            return
        try:
            self._prepare()
            shard = write_shard(self.directory, self._pending, self.identity)
        except OSError as error:
            self._break(f"{self.root} cannot be written ({_words(error)})")
            return
        self._seen.add(shard.path)
        self.used.add(shard.path)
        self._add(shard)
        self._pending = {}
        self.refresh()

    def _break(self, why: str) -> None:
        self.broken = why
        self.tell(f"{self.what} stay in memory: {why}")

    def _prepare(self) -> None:
        about = json.dumps(self.identity.about, indent=2)
        for directory, name, text in (
            (self.root, "README", _README),
            (self.directory, "about.json", about + "\n"),
        ):
            make_private(directory)
            if not (directory / name).exists():
                write_private(directory / name, text)

    def _take(self, path: Path) -> None:
        try:
            shard = read_shard(path, self.identity)
        except FileNotFoundError:
            return
        except Unusable as error:
            self._refuse(path, error)
            return
        self._add(shard)

    def _add(self, shard: Shard) -> None:
        number = len(self._seen)
        self._shards[number] = shard
        self._index.update((key, number * _ROWS + row) for row, key in enumerate(shard.keys))

    def _checked(self, key: bytes) -> memoryview | None:
        place = self._index.get(key)
        if place is None:
            return None
        number, row = divmod(place, _ROWS)
        shard = self._shards[number]
        try:
            whole = self._map(number)
        except OSError:
            self._forget(number, "its file was removed")
            return None
        except Unusable as error:
            self._refuse(shard.path, error)
            self._forget(number, error.reason.removeprefix("it is "))
            return None
        start = int(shard.starts[row])
        data = whole[start : start + self.identity.nbytes]
        if checksum(key, data) != int(shard.checksums[row]):
            self._refuse(shard.path, Unusable("a checksum is wrong", damaged=True))
            self._forget(number, "damaged")
            return None
        return data

    def _map(self, number: int) -> memoryview:
        found = self._maps.get(number)
        if found is None:
            shard = self._shards[number]
            found = open_map(shard)
            self._use(shard.path)
            self._maps[number] = found
            if len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(number)
        return found

    def _use(self, path: Path) -> None:
        if path not in self.used:
            self.used.add(path)
            room.touch(path)

    def _refuse(self, path: Path, why: Unusable) -> None:
        """Say that a file is of no use; remove it where it is ours and damaged."""
        self.tell(f"{path}: {why.reason}; the {self.what} it held are computed again")
        if why.damaged:
            with suppress(OSError):
                path.unlink()

    def _forget(self, number: int, reason: str) -> None:
        lost = [key for key in self._shards[number].keys if self._index.get(key, -1) // _ROWS == number]
        for key in lost:
            self.lost[key] = reason
            del self._index[key]
        self._maps.pop(number, None)
        del self._shards[number]


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
