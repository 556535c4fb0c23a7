"""What the tests of the store share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from mlx_medlora.features.source import ImageFeatures

Open = Callable[..., ImageFeatures]


class Pixels:
    """Stands in for the encoder: plain scaling, at the small model's size."""

    side = 28

    def pixels(self, images: list[Image.Image]) -> np.ndarray:
        resized = [np.asarray(image.resize((self.side, self.side))) for image in images]
        return np.stack(resized).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def bits(features: ImageFeatures, files: list[Path]) -> dict[Path, bytes]:
    return {file: np.array(features[file]).tobytes() for file in files}


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("*/*.safetensors"))
