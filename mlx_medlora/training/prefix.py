"""Hidden states that enter the first trained layer, by example: with `--layers last:K` nothing below changes.

They are kept like image features, one store for each padded length, and computed one row at a time, so that
they do not depend on a row's neighbours. Letters: B rows, L tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import mlx.core as mx

from mlx_medlora.features.source import memory_share
from mlx_medlora.features.store import Store
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import collate
from mlx_medlora.training.buckets import Shape
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.prefix_stores import OpenStore, states_dtype

_GRAIN = 16  # rows are kept at lengths of so many tokens

Progress = Callable[[int, int], None]


def padded(length: int) -> int:
    """The length at which a row of `length` tokens is kept."""
    return -(-length // _GRAIN) * _GRAIN


def prefix_bytes(config: ModelConfig, lengths: Iterable[int], dtype: mx.Dtype) -> int:
    """Bytes of the hidden states of rows of these `lengths` in tokens."""
    return sum(padded(length) for length in lengths) * config.text.hidden_size * dtype.size


class Prefix:
    """The states below layer `first` of `model`.

    `fill` alone keeps any. Where `stores` gives none for a length, or the disk fails, they stay in memory, up
    to `memory` bytes (a quarter of the machine's); those beyond a limit, `left` in number, are computed anew
    each time.
    """

    def __init__(
        self, model: Base, first: int, images: FeatureCache, stores: OpenStore, *, memory: int | None = None
    ) -> None:
        self.model, self.first, self.images = model, first, images
        self.dtype = states_dtype(model, first)
        self.memory = memory_share() if memory is None else memory
        self.left = 0
        self._open, self._stores = stores, dict[int, Store | None]()
        self._wanted: dict[int, dict[bytes, None]] = {}
        self._held: dict[bytes, mx.array] = {}
        self._bytes = 0
        self._keys: dict[str, bytes] = {}

    @property
    def on_disk(self) -> bool:
        """Whether there is a store that other processes may read, as far as is known yet."""
        return any(store is not None for store in self._stores.values())

    def missing(self, examples: Sequence[Example]) -> list[Example]:
        """Those of `examples` that no store says it has; what holds the others is spared from now on."""
        self._want(examples)
        return [example for example in examples if not self._known(example)]

    def fill(self, examples: Sequence[Example], progress: Progress | None = None) -> None:
        """Have the states of all `examples`, as far as there is room; `progress(done, total)` after each.

        Stored ones are read, so that a damaged one is found now. One store at a time holds what is not
        written. What was computed before an error or an interrupt is kept.
        """
        self._want(examples)
        self.left, done = 0, 0
        try:
            for _, group in groupby(sorted(examples, key=_length), key=_length):
                for example in group:
                    self._have(example)
                    done += 1
                    if progress is not None:
                        progress(done, len(examples))
                self._flush()
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Write what is not written, and take notice of what other processes wrote."""
        self._flush()
        self._claim()

    def rows(self, examples: Sequence[Example], length: int) -> mx.array:
        """(B, length, D) states of `examples`; what stands at padding is never looked at."""
        states = [self._state(example)[:length] for example in examples]
        return mx.stack([mx.pad(state, [(0, length - state.shape[0]), (0, 0)]) for state in states])

    def _state(self, example: Example) -> mx.array:
        key, store = self._key(example), self._store(_length(example))
        found = self._held.get(key)
        if found is None and store is not None:
            found = store.get(key)
        return self._computed(example) if found is None else found

    def _have(self, example: Example) -> None:
        """Keep one row's states, unless they are there or there is no room."""
        key, store = self._key(example), self._store(_length(example))
        if key in self._held or (store is not None and store.holds(key)):
            return
        if not self._has_room(store, example):
            self.left += 1
            return
        state = self._computed(example)
        if store is None or self._broken() or not store.put(key, state):
            self._held[key] = state
            self._bytes += state.nbytes

    def _has_room(self, store: Store | None, example: Example) -> bool:
        """Whether one more row can be kept: memory takes over from a disk that fails, not from a limit."""
        if store is None or self._broken():
            size = prefix_bytes(self.model.config, [len(example)], self.dtype)
            return self._bytes + size <= self.memory
        if not store.pending and not store.full:
            self._claim()  # another rank may have written since: its files are not to make way
        return store.has_room()

    def _broken(self) -> bool:
        """Whether some store could not be written: all are in one place, and one has said so."""
        return any(store is not None and store.broken is not None for store in self._stores.values())

    def _known(self, example: Example) -> bool:
        key, store = self._key(example), self._store(_length(example))
        return key in self._held or (store is not None and key in store)

    def _want(self, examples: Sequence[Example]) -> None:
        for example in examples:
            self._wanted.setdefault(_length(example), {})[self._key(example)] = None
        self._claim()

    def _claim(self) -> None:
        """Have the files spared that hold any row of the run, whichever process wrote them."""
        for length, keys in self._wanted.items():
            store = self._store(length)
            if store is not None:
                store.refresh()
                store.claim(keys)

    def _flush(self) -> None:
        for store in self._stores.values():
            if store is not None:
                store.flush()

    def _store(self, length: int) -> Store | None:
        if length not in self._stores:
            self._stores[length] = self._open(length)
        return self._stores[length]

    def _computed(self, example: Example) -> mx.array:
        shape = Shape(_length(example), example.targets)
        arrays = collate([example], self.images, self.model.config, shape).arrays
        embedded = self.model.embed(arrays.input_ids, arrays.features)
        state = mx.contiguous(self.model.below(embedded, arrays.token_type_ids, self.first)[0])
        mx.eval(state)
        return state

    def _key(self, example: Example) -> bytes:
        """SHA-256 of the row's tokens and images."""
        if example.where not in self._keys:
            digest = hashlib.sha256(example.ids.tobytes())
            for file in example.images:
                digest.update(self.images.digest(file).encode())
            self._keys[example.where] = digest.digest()
        return self._keys[example.where]


def _length(example: Example) -> int:
    return padded(len(example))
