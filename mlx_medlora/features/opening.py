"""From settings to features: the store is opened, or it is said why there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlx_medlora
from mlx_medlora.features.identity import identify
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.features.store import Store
from mlx_medlora.features.tower import parts
from mlx_medlora.gemma.model import Base, Gemma3

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

_PACKAGES = ("site-packages", "dist-packages")
_HINT = "give --features DIR to keep them"


def open_features(
    model: Base,
    encoder: Encoder,
    settings: FeatureSettings,
    data: Path,
    tell: Callable[[str], None],
    *,
    images: bool = True,
) -> ImageFeatures:
    """Features for the images of the dataset directory `data`; `images` is False where it has none.

    In memory, and `tell` hears why, where an adapter changes the tower or the dataset is part of an installed
    package. A place that cannot be written is found out at the first write.
    """
    store = None
    if images and not settings.memory and isinstance(model, Gemma3):
        reason = _why_not(model, settings, data)
        if reason is None:
            store = _open_store(model, encoder, settings, data, tell)
        else:
            tell(f"image features stay in memory: {reason}")
    return ImageFeatures(model, encoder, store, tell=tell)


def _open_store(
    model: Gemma3, encoder: Encoder, settings: FeatureSettings, data: Path, tell: Callable[[str], None]
) -> Store:
    root = settings.place(data)
    identity = identify(model, encoder, root / "towers")
    return Store(root, identity, int(settings.limit * 1e9), tell)


def _why_not(model: Gemma3, settings: FeatureSettings, data: Path) -> str | None:
    if any("lora_" in name for name, _ in parts(model)):
        return "the adapter changes the vision tower"
    return in_package(settings, data)


def in_package(settings: FeatureSettings, data: Path) -> str | None:
    """Why nothing may be kept beside `data`, where it is part of an installed package."""
    installed = Path(mlx_medlora.__file__).resolve().parent
    place = data.resolve()
    if settings.directory is None and (place.is_relative_to(installed) or set(place.parts) & set(_PACKAGES)):
        return f"{data} is part of an installed package; {_HINT}"
    return None
