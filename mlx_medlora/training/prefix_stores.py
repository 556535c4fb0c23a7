"""Where hidden states are kept: beside the image features, one store for each padded length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import PIL

from mlx_medlora.cases.images import OPENING
from mlx_medlora.features.identity import Identity, arithmetic, identify
from mlx_medlora.features.opening import in_package
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.features.store import Store, Tell
from mlx_medlora.features.tower import layers_digest
from mlx_medlora.gemma.model import Base, Gemma3

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

_FORMAT = 2
_WHAT = "hidden states"

OpenStore = Callable[[int], Store | None]


def seen_as(found: ImageFeatures, encoder: Encoder, settings: FeatureSettings, data: Path) -> str | None:
    """What decides the image features of the dataset, as a digest; None for a model that sees no images.

    The tower is still needed for it.
    """
    if found.store is not None:
        return found.store.identity.digest
    if not isinstance(found.model, Gemma3):
        return None
    memo = None if settings.memory else settings.place(data) / "towers"
    return identify(found.model, encoder, memo).digest


def states_dtype(model: Base, first: int) -> mx.Dtype:
    """The dtype of hidden states below layer `first`, where weights are of several; nothing is computed."""
    return model.below(model.embed(mx.zeros((1, 1), mx.int32)), None, first).dtype


def prefix_stores(
    model: Base,
    first: int,
    base: str | None,
    settings: FeatureSettings,
    data: Path,
    tell: Tell,
    *,
    images: str | None = None,
    used: set[Path] | None = None,
) -> OpenStore:
    """Stores in the place of the image features of `data`; none are given where nothing may be kept there.

    `base` is the model's fingerprint, `images` the digest of what decides image features, where the dataset
    has images. The stores share `used` with that of the image features, so that none removes what the run
    reads from another.
    """
    reason = in_package(settings, data)
    if not settings.memory and reason is not None:
        tell(f"{_WHAT} stay in memory: {reason}")
    if settings.memory or base is None or reason is not None:
        return lambda length: None
    root, width, dtype = settings.place(data), model.config.text.hidden_size, states_dtype(model, first)
    spared: set[Path] = set() if used is None else used
    decides = {
        **_about(model, first, root / "towers"),
        "dtype": str(dtype),
        "base": base,
        "images": images,
    }

    def open_store(length: int) -> Store | None:
        about = {**decides, "shape": [length, width]}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        identity = Identity(digest, about, (length, width), dtype)
        return Store(root, identity, int(settings.limit * 1e9), tell, used=spared, what=_WHAT)

    return open_store


def _about(model: Base, first: int, memo: Path) -> dict[str, Any]:
    """All that decides the states of a row whose tokens and image features are given."""
    return {
        "format": _FORMAT,
        "kind": _WHAT,
        "weights": layers_digest(model, first, memo),
        "text": model.config.text.model_dump(mode="json"),
        "image token": model.config.image_token_id,
        "pillow": PIL.__version__,
        "opening": OPENING,
        "first": first,
        "arithmetic": arithmetic(),
    }
