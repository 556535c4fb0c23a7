"""Hidden states that enter the first trained layer, by example: with `--layers last:K` nothing below changes.

They are kept like image features, one store for each padded length, and computed one row at a time, so that
they do not depend on a row's neighbours. Letters: B rows, L tokens, D width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import mlx.core as mx
import PIL

from mlx_medlora.cases.images import OPENING
from mlx_medlora.features.identity import Identity, arithmetic
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.store import Store, Tell
from mlx_medlora.files import sha256
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.batches import Shape, collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import ImageSource

_FORMAT = 1
_GRAIN = 16  # rows are kept at lengths of so many tokens

OpenStore = Callable[[int], Store | None]
Progress = Callable[[int, int], None]


def padded(length: int) -> int:
    """The length at which a row of `length` tokens is kept."""
    return -(-length // _GRAIN) * _GRAIN


def prefix_bytes(config: ModelConfig, lengths: Iterable[int], dtype: mx.Dtype) -> int:
    """Bytes of the hidden states of rows of these `lengths` in tokens."""
    return sum(padded(length) for length in lengths) * config.text.hidden_size * dtype.size


class Prefix:
    """The states below layer `first` of `model`; in memory where `stores` gives none for a length."""

    def __init__(self, model: Base, first: int, images: ImageSource, stores: OpenStore) -> None:
        self.model, self.first, self.images = model, first, images
        self._open, self._stores = stores, dict[int, Store | None]()
        self._held: dict[bytes, mx.array] = {}
        self._keys: dict[str, bytes] = {}
        self._files: dict[Path, str] = {}

    def fill(self, examples: Sequence[Example], progress: Progress | None = None) -> None:
        """Have the states of all `examples`, as far as there is room; `progress(done, total)` after each."""
        for done, example in enumerate(examples, start=1):
            self._state(example)
            if progress is not None:
                progress(done, len(examples))
        self.refresh()

    def refresh(self) -> None:
        """Write what is not written, and take notice of what other processes wrote."""
        for store in self._stores.values():
            if store is not None:
                store.flush()
                store.refresh()

    def rows(self, examples: Sequence[Example], length: int) -> mx.array:
        """(B, length, D) states of `examples`; what stands at padding is never looked at."""
        states = [self._state(example)[:length] for example in examples]
        return mx.stack([mx.pad(state, [(0, length - state.shape[0]), (0, 0)]) for state in states])

    def _state(self, example: Example) -> mx.array:
        key, length = self._key(example), padded(len(example))
        if length not in self._stores:
            self._stores[length] = self._open(length)
        store = self._stores[length]
        found = self._held.get(key) if store is None else store.get(key)
        if found is not None:
            return found
        state = self._computed(example, length)
        if store is None:
            self._held[key] = state
        else:
            store.put(key, state)
        return state

    def _computed(self, example: Example, length: int) -> mx.array:
        shape = Shape(length, example.targets)
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
                if file not in self._files:
                    self._files[file] = sha256(file)
                digest.update(self._files[file].encode())
            self._keys[example.where] = digest.digest()
        return self._keys[example.where]


def prefix_stores(
    model: Base, first: int, base: str | None, settings: FeatureSettings, data: Path, tell: Tell
) -> OpenStore:
    """Stores beside the image features of `data`; `base` is the model's fingerprint."""

    def open_store(length: int) -> Store | None:
        if settings.memory or base is None:
            return None
        about = {
            "format": _FORMAT,
            "kind": "hidden states",
            "base": base,
            "pillow": PIL.__version__,
            "opening": OPENING,
            "first": first,
            "dtype": str(model.dtype),
            "shape": [length, model.config.text.hidden_size],
            "arithmetic": arithmetic(),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        identity = Identity(digest, about, (length, model.config.text.hidden_size), model.dtype)
        return Store(settings.place(data), identity, int(settings.limit * 1e9), tell)

    return open_store
