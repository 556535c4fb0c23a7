"""Features by image file, from the store where they are there, else from the tower.

Each image goes through the tower alone. Passes of several images would differ in their last bits by which
images stand beside each other, and a store that is half full would then change the adapter.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import mlx.core as mx
import psutil

from mlx_medlora.cases.images import open_image, read_image
from mlx_medlora.errors import InputError
from mlx_medlora.features.report import FeatureUse
from mlx_medlora.features.store import Store, Tell
from mlx_medlora.files import sha256
from mlx_medlora.gemma.load import load_tower
from mlx_medlora.gemma.model import Base, Gemma3

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

Progress = Callable[[int, int], None]
Look = Callable[[mx.array], mx.array]
_Came = Literal["stored", "computed", "again", "left"]  # as in `FeatureUse`
_SHARE = 4  # of the machine's memory, one part may hold features


def memory_share() -> int:
    """Bytes of this machine's memory that features, or hidden states, may take."""
    return psutil.virtual_memory().total // _SHARE


def see(look: Look, encoder: Encoder, file: Path, key: bytes | None = None) -> mx.array:
    """Features (T, D) of one image, computed. Raises InputError where it cannot be read.

    Also where the very bytes that are looked at do not have `key`, a SHA-256, if one is given.
    """
    data = None if key is None else _read(file, key)
    found = look(mx.array(encoder.pixels([open_image(file, data)])))  # (1, T, D)
    one = mx.contiguous(found[0])
    mx.eval(one)
    return one


def _read(file: Path, key: bytes) -> bytes:
    data = read_image(file)
    if hashlib.sha256(data).digest() != key:
        raise InputError(
            "the image has changed since it was first read, a moment ago or earlier in this run",
            path=file,
            hint="Start again once nothing writes to the dataset.",
        )
    return data


class ImageFeatures(Mapping[Path, mx.array]):
    """Features (T, D) by image file: any file may be asked for; iterating gives those that were.

    Without a store they stay in memory, as many as a quarter of the machine's holds. Reading raises
    InputError for an image that cannot be read. Use it as a context, or call `settle` when no new images
    are to come: what was computed is written then.
    """

    def __init__(
        self,
        model: Base,
        encoder: Encoder,
        store: Store | None = None,
        *,
        tell: Tell | None = None,
        memory: int | None = None,
    ) -> None:
        self.model, self.encoder, self.store = model, encoder, store
        self.tell = tell or (lambda text: None)
        self.memory = memory_share() if memory is None else memory
        self._keys: dict[Path, bytes] = {}
        self._held: dict[bytes, mx.array] = {}
        self._bytes = 0
        self._came: dict[bytes, _Came] = {}
        self._why: dict[str, None] = {}
        self._settled = False
        self._spare: Look | None = None

    def __enter__(self) -> ImageFeatures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def __getitem__(self, file: Path) -> mx.array:
        key = self.key(file)
        found = self._find(key)
        if found is None:
            return self._compute(file, key)
        self._note(key, "stored")
        return found

    def __contains__(self, file: object) -> bool:
        return isinstance(file, Path)

    def __iter__(self) -> Iterator[Path]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def complete(self) -> bool:
        """True where every image that was asked for is held: the tower is not needed for them."""
        return "left" not in self._came.values()

    @property
    def use(self) -> FeatureUse:
        """Where the features came from, up to now."""
        place = None if self.store is None else str(self.store.root)
        counts = Counter[str](self._came.values())
        return FeatureUse(**counts, why=tuple(self._why), place=place)

    def fill(self, files: Iterable[Path], progress: Progress | None = None) -> None:
        """Make sure that all `files` are held, as far as the limit allows, and settle.

        Stored ones are read, so that a damaged one is found now; `progress(done, total)` after each image.
        What was computed before an error or an interrupt is kept. It may be called again for other files.
        """
        wanted, self._settled = list(dict.fromkeys(files)), False
        try:
            for (
                file
            ) in wanted:  # all first: a bad file takes others with it, and making room spares what is used
                self._holds(self.key(file))
            missing = [file for file in wanted if not self._knows(self._keys[file])]
            for file in set(wanted).difference(missing):
                self._note(self._keys[file], "stored")
            for done, file in enumerate(missing, start=len(wanted) - len(missing) + 1):
                self._make(file)
                if progress is not None:
                    progress(done, len(wanted))
            if progress is not None and not missing:
                progress(len(wanted), len(wanted))
        finally:
            self.settle()

    def settle(self) -> None:
        """Write what is not written yet. What is computed from now on is not kept, until the next `fill`."""
        if self.store is not None:
            self.store.flush()
        self._settled = True

    def key(self, file: Path) -> bytes:
        """SHA-256 of the file, as it was when it was first asked for: its features are of no other bytes.

        Raises InputError where it cannot be read.
        """
        if file in self._keys:
            return self._keys[file]
        try:
            key = bytes.fromhex(sha256(file))
        except OSError as error:
            open_image(file)  # says what is wrong in its own words
            raise InputError(f"the image cannot be read: {error.strerror}", path=file) from error
        self._keys[file] = key
        return key

    def _make(self, file: Path) -> None:
        """Compute and keep one image's features, unless a copy of the file had them or there is no room."""
        key = self._keys[file]
        if self._knows(key):
            return
        if self._has_room():
            self._compute(file, key)
        else:
            self._note(key, "left")

    def _holds(self, key: bytes) -> bool:
        return key in self._held or (self.store is not None and self.store.holds(key))

    def _knows(self, key: bytes) -> bool:
        """As `_holds`, without reading."""
        return key in self._held or (self.store is not None and key in self.store)

    def _find(self, key: bytes) -> mx.array | None:
        if key in self._held:
            return self._held[key]
        return None if self.store is None else self.store.get(key)

    def _compute(self, file: Path, key: bytes) -> mx.array:
        """Through the tower, and kept where there is room and nothing is settled yet."""
        array = see(self._look(), self.encoder, file, key)
        if not self._settled:
            self._keep(key, array)
        return array

    def _keep(self, key: bytes, array: mx.array) -> None:
        if not self._has_room():
            self._note(key, "left")
            return
        reason = None if self.store is None else self.store.lost.get(key)
        self._note(key, "computed" if reason is None else "again")
        if reason is not None:
            self._why[reason] = None
        if self.store is None or not self.store.put(key, array):
            self._held[key] = array
            self._bytes += array.nbytes

    def _note(self, key: bytes, came: _Came) -> None:
        """Note where an image's features came from; what this run kept itself is not "stored" when found."""
        if came != "stored" or self._came.get(key, "left") == "left":
            self._came[key] = came

    def _has_room(self) -> bool:
        """Whether new features can be kept: memory takes over from a disk that fails, not from a limit."""
        if self.store is not None and self.store.broken is None:
            return self.store.has_room()
        return self._bytes < self.memory

    def _look(self) -> Look:
        """The model's tower, or another of the same weights where the model has let go of its own."""
        if not isinstance(self.model, Gemma3) or self.model.has_tower:
            return self.model.image_features
        if self._spare is None:
            self.tell(
                "stored image features were lost while they were in use: the vision tower is loaded again"
            )
            self._spare = load_tower(self.model)
        return self._spare
