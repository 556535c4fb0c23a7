"""What a batch holds of its images: features of the frozen tower, or pixels where the tower is trained.

Recomputing the frozen tower in each step would be 47 % of a MedGemma 4B step; its output is 1.25 MiB an
image in bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_medlora.cases.images import open_image
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.vision import at_once
from mlx_medlora.training.examples import Example

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

Progress = Callable[[int, int], None]


class FeatureCache:
    """Features (T, D) by image file, held in memory."""

    def __init__(self, features: dict[Path, mx.array] | None = None) -> None:
        self.features = features or {}

    @classmethod
    def for_examples(
        cls, examples: Iterable[Example], model: Base, encoder: Encoder, progress: Progress | None = None
    ) -> FeatureCache:
        """Run the tower over each distinct image of `examples`; `progress(done, total)` after each pass.

        Raises InputError for an image that cannot be read.
        """
        files = list(dict.fromkeys(image for example in examples for image in example.images))
        cache, size = cls(), at_once(model.config.vision)
        for start in range(0, len(files), size):
            cache.add(files[start : start + size], model, encoder)
            if progress is not None:
                progress(len(cache.features), len(files))
        return cache

    def add(self, files: Sequence[Path], model: Base, encoder: Encoder) -> None:
        """Run the tower over `files` in one pass."""
        pixels = encoder.pixels([open_image(file) for file in files])  # (N, 3, H, W)
        found = [mx.contiguous(one) for one in model.image_features(mx.array(pixels))]  # N x (T, D)
        mx.eval(found)
        self.features.update(zip(files, found, strict=True))

    def stack(self, files: Sequence[Path]) -> mx.array:
        """(N, T, D) for `files`, in their order; KeyError for one that was never added."""
        return mx.stack([self.features[file] for file in files])


class PixelSource:
    """Pixels for a tower that is trained: its features change with each update."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.features: dict[Path, mx.array] = {}  # none that would still hold

    def stack(self, files: Sequence[Path]) -> mx.array:
        """(N, 3, H, W) for `files`, in their order. Raises InputError for one that cannot be read."""
        return mx.array(self.encoder.pixels([open_image(file) for file in files]))


ImageSource = FeatureCache | PixelSource
