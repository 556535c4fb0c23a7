"""What a batch holds of its images: features of the frozen tower, or pixels where the tower is trained.

Recomputing the frozen tower in each step would be 47 % of a MedGemma 4B step; its output is 1.25 MiB an
image in bf16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_medlora.cases.images import open_image
from mlx_medlora.features.source import ImageFeatures, Progress
from mlx_medlora.files import sha256
from mlx_medlora.gemma.model import Base
from mlx_medlora.training.examples import Example

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder


class FeatureCache:
    """Features (T, D) by image file, whatever holds them: a dictionary, or `ImageFeatures`."""

    def __init__(self, features: Mapping[Path, mx.array] | None = None) -> None:
        self.features: Mapping[Path, mx.array] = {} if features is None else features

    @classmethod
    def for_examples(
        cls,
        examples: Iterable[Example],
        model: Base,
        encoder: Encoder,
        progress: Progress | None = None,
        *,
        features: ImageFeatures | None = None,
    ) -> FeatureCache:
        """Have the features of each distinct image of `examples`; `progress(done, total)` after each one.

        They come from `features` and are kept there, or in memory. Raises InputError for an image that cannot
        be read.
        """
        found = ImageFeatures(model, encoder) if features is None else features
        found.fill((image for example in examples for image in example.images), progress)
        return cls(found)

    def digest(self, file: Path) -> str:
        """Hexadecimal SHA-256 of the bytes that the features of `file` are of.

        Raises InputError where it cannot be read.
        """
        found = self.features
        return found.key(file).hex() if isinstance(found, ImageFeatures) else sha256(file)

    def stack(self, files: Sequence[Path]) -> mx.array:
        """(N, T, D) for `files`, in their order; KeyError for one that a dictionary does not have."""
        seen = {file: self.features[file] for file in dict.fromkeys(files)}
        return mx.stack([seen[file] for file in files])


class PixelSource:
    """Pixels for a tower that is trained: its features change with each update."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.features: dict[Path, mx.array] = {}  # none that would still hold

    def stack(self, files: Sequence[Path]) -> mx.array:
        """(N, 3, H, W) for `files`, in their order. Raises InputError for one that cannot be read."""
        return mx.array(self.encoder.pixels([open_image(file) for file in files]))


ImageSource = FeatureCache | PixelSource
