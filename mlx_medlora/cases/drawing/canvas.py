"""Shared brushes: soft shapes, smooth noise and the way from brightness to an image.

A canvas is a float32 array (size, size) of brightness from 0 to 1. Coordinates run from -1 (left, top) to
1 (right, bottom), so that a drawing looks the same at every size.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Canvas = NDArray[np.float32]  # (size, size), brightness or coverage in [0, 1]


@lru_cache(maxsize=4)
def grid(size: int) -> tuple[Canvas, Canvas]:
    """The x and y coordinates of every pixel's centre, each (size, size) in (-1, 1); read-only."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = (np.ascontiguousarray(axis) for axis in np.meshgrid(line, line))
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def step(distance: Canvas, softness: float) -> Canvas:
    """Coverage of a shape from a signed distance (positive inside); the edge is `softness` wide."""
    coverage: Canvas = np.clip(distance / np.float32(softness) + np.float32(0.5), 0, 1)
    return coverage


def ellipse(
    size: int,
    centre: tuple[float, float],
    radii: tuple[float, float],
    *,
    turn: float = 0.0,
    softness: float = 0.03,
    wobble: Canvas | float = 0.0,
) -> Canvas:
    """Coverage (size, size) of an ellipse turned by `turn` radians; `wobble` moves its edge outward."""
    x, y = grid(size)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along = (dx * cos + dy * sin) / np.float32(radii[0])
    across = (dy * cos - dx * sin) / np.float32(radii[1])
    reach = np.sqrt(along * along + across * across)
    return step((1 - reach + wobble).astype(np.float32), softness / min(radii))


def smooth_noise(rng: np.random.Generator, size: int, cells: int | tuple[int, int]) -> Canvas:
    """Noise (size, size) of mean about 0 and deviation about 1 whose blobs are `1/cells` of the side."""
    across, down = (cells, cells) if isinstance(cells, int) else cells
    seeds = Image.fromarray(rng.standard_normal((down + 2, across + 2), dtype=np.float32))
    return np.asarray(seeds.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) * np.float32(
        1.4
    )


def blend(canvas: Canvas, coverage: Canvas, brightness: Canvas | float) -> Canvas:
    """Paint `brightness` over `canvas` where `coverage` is 1, in proportion elsewhere."""
    painted: Canvas = (canvas + (brightness - canvas) * coverage).astype(np.float32)
    return painted


def grey_image(canvas: Canvas, blur: float = 0.0) -> Image.Image:
    """The canvas as an 8-bit grey image, blurred by `blur` pixels."""
    image = Image.fromarray(np.clip(canvas * 255 + 0.5, 0, 255).astype(np.uint8))
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image
