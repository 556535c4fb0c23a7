"""An H&E-like tile: pink stroma, glands, purple nuclei; the finding is a dense cluster of large dark ones."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mlx_medlora.cases.drawing.canvas import smooth_noise

_OVERSAMPLING = 2  # nuclei are drawn this much larger and then averaged, for smooth edges

Circle = tuple[float, float, float]  # centre x, centre y and radius, as shares of the tile's side


def draw(finding: bool, rng: np.random.Generator, size: int = 224) -> Image.Image:
    """Draw one tile, (size, size) RGB; with a finding, crowded atypical nuclei fill part of it."""
    side = size * _OVERSAMPLING
    tile = _stroma(rng, size).resize((side, side), Image.Resampling.BILINEAR)
    brush = ImageDraw.Draw(tile)
    glands = _glands(rng)
    for gland in glands:
        _draw_gland(brush, rng, side, gland)
    cluster = (rng.uniform(0.32, 0.68), rng.uniform(0.32, 0.68), rng.uniform(0.24, 0.32))
    _scatter(brush, rng, side, [*glands, cluster] if finding else glands)
    if finding:
        _draw_cluster(brush, rng, side, cluster)
    tile = tile.reduce(_OVERSAMPLING).filter(ImageFilter.GaussianBlur(size / 400))
    grain = 4.0 * rng.standard_normal((size, size, 1), dtype=np.float32)
    return Image.fromarray(np.clip(np.asarray(tile, np.float32) + grain, 0, 255).astype(np.uint8))


def _stroma(rng: np.random.Generator, size: int) -> Image.Image:
    """Pink ground with paler and deeper fibres, (size, size) RGB."""
    direction = (4, 16) if rng.random() < 0.5 else (16, 4)
    fibres = 0.6 * smooth_noise(rng, size, direction) + 0.4 * smooth_noise(rng, size, 7)
    pink = np.array([232, 180, 205], np.float32) + rng.uniform(-8, 8, 3).astype(np.float32)
    deeper = np.array([9, 17, 11], np.float32)
    return Image.fromarray(np.clip(pink - fibres[..., None] * deeper, 0, 255).astype(np.uint8))


def _glands(rng: np.random.Generator) -> list[Circle]:
    """None, one or two glands near the tile's corners."""
    corners = [(0.17, 0.17), (0.83, 0.17), (0.17, 0.83), (0.83, 0.83)]
    chosen = rng.permutation(4)[: rng.integers(0, 3)]
    return [(*corners[index], rng.uniform(0.11, 0.14)) for index in chosen]


def _nucleus(
    brush: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    centre: tuple[float, float],
    radii: tuple[float, float],
    turn: float,
    colour: tuple[int, int, int],
    roughness: float,
) -> None:
    """One nucleus in pixels: an ellipse turned by `turn`, its edge uneven by the share `roughness`."""
    reach = 1 + roughness * rng.uniform(-1, 1, 14)
    cos, sin = math.cos(turn), math.sin(turn)
    outline = []
    for corner, scale in enumerate(reach):
        angle = 2 * math.pi * corner / len(reach)
        along, across = radii[0] * scale * math.cos(angle), radii[1] * scale * math.sin(angle)
        outline.append((centre[0] + along * cos - across * sin, centre[1] + along * sin + across * cos))
    edge = (int(colour[0] * 0.8), int(colour[1] * 0.8), int(colour[2] * 0.86))
    brush.polygon(outline, fill=colour, outline=edge)


def _purple(rng: np.random.Generator, depth: float) -> tuple[int, int, int]:
    """A haematoxylin tone: `depth` 0 is pale, 1 almost black."""
    pale, dark = np.array([150, 112, 182]), np.array([58, 26, 92])
    red, green, blue = (pale + (dark - pale) * np.clip(depth, 0, 1) + rng.uniform(-8, 8, 3)).astype(int)
    return int(red), int(green), int(blue)


def _draw_gland(brush: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, gland: Circle) -> None:
    """A white lumen in a ring of evenly spaced nuclei."""
    x, y, radius = (value * side for value in gland)
    brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(222, 160, 196))
    lumen = radius * 0.5
    brush.ellipse((x - lumen, y - lumen, x + lumen, y + lumen), fill=(248, 240, 245))
    count = int(rng.integers(14, 18))
    for index in range(count):
        angle = 2 * math.pi * index / count
        centre = (x + 0.84 * radius * math.cos(angle), y + 0.84 * radius * math.sin(angle))
        radii = (0.019 * side, 0.012 * side)
        _nucleus(brush, rng, centre, radii, angle, _purple(rng, rng.uniform(0.35, 0.55)), 0.06)


def _scatter(brush: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, keep_out: list[Circle]) -> None:
    """Small regular nuclei on a jittered lattice, outside the circles of `keep_out`."""
    columns = int(rng.integers(7, 10))
    for cell in range(columns * columns):
        x, y = ((index + rng.uniform(0.1, 0.9)) / columns for index in divmod(cell, columns))
        if any(math.hypot(x - cx, y - cy) < radius + 0.02 for cx, cy, radius in keep_out):
            continue
        radii = (rng.uniform(0.014, 0.021) * side, rng.uniform(0.010, 0.014) * side)
        turn, tone = rng.uniform(0, math.pi), rng.uniform(0.25, 0.6)
        _nucleus(brush, rng, (x * side, y * side), radii, turn, _purple(rng, tone), 0.08)


def _draw_cluster(brush: ImageDraw.ImageDraw, rng: np.random.Generator, side: int, cluster: Circle) -> None:
    """Crowded nuclei of unequal size and shape, two to three times the normal breadth, some overlapping."""
    x, y, radius = cluster
    count = int(620 * radius * radius)
    for index in range(count):
        # Vogel's spiral spreads points evenly over a disc; the jitter hides the pattern.
        reach, angle = radius * math.sqrt((index + 0.5) / count), index * 2.399963
        centre = (
            (x + reach * math.cos(angle) + rng.uniform(-0.018, 0.018)) * side,
            (y + reach * math.sin(angle) + rng.uniform(-0.018, 0.018)) * side,
        )
        radii = (rng.uniform(0.026, 0.046) * side, rng.uniform(0.021, 0.032) * side)
        _nucleus(
            brush, rng, centre, radii, rng.uniform(0, math.pi), _purple(rng, rng.uniform(0.6, 1.0)), 0.16
        )
