"""An ultrasound sector: layers in speckle; the finding is a dark mass with a bright trail below it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mlx_medlora.cases.drawing.canvas import Canvas, blend, ellipse, grey_image, grid, smooth_noise, step


def draw(finding: bool, rng: np.random.Generator, size: int = 224) -> Image.Image:
    """Draw one sector, (size, size) grey; with a finding, a hypoechoic mass with an irregular edge."""
    depth, angle = _polar(size)
    echo = _layers(rng, size, depth, angle)
    if finding:
        echo = _with_mass(rng, echo)
    echo = echo * _speckle(rng, size)
    echo = echo * (1.06 - 0.42 * depth).astype(np.float32) * rng.uniform(0.9, 1.1)
    half_width = rng.uniform(0.6, 0.68)
    sector = step((half_width - np.abs(angle)).astype(np.float32), 0.01)
    sector = sector * step(depth, 0.01) * step((1 - depth).astype(np.float32), 0.01)
    return grey_image(echo * sector, blur=size / 500)


def _polar(size: int) -> tuple[Canvas, Canvas]:
    """Depth below the probe (0 at its face, 1 at the bottom arc) and the beam's angle in radians."""
    x, y = grid(size)
    down, face, reach = y + np.float32(1.75), 0.85, 2.7
    depth = (np.sqrt(x * x + down * down) - np.float32(face)) / np.float32(reach - face)
    return depth.astype(np.float32), np.arctan2(x, down).astype(np.float32)


def _layers(rng: np.random.Generator, size: int, depth: Canvas, angle: Canvas) -> Canvas:
    """Skin, fat and gland, parted by bright wavy sheets."""
    warped = depth + 0.022 * smooth_noise(rng, size, (4, 3)) + 0.03 * np.sin(3 * angle + rng.uniform(0, 6))
    echo = (np.float32(0.42) + 0.07 * smooth_noise(rng, size, (9, 16))).astype(np.float32)
    echo = blend(echo, step((0.16 - warped).astype(np.float32), 0.05), rng.uniform(0.3, 0.38))
    echo = blend(echo, step((0.05 - warped).astype(np.float32), 0.03), 0.8)
    for level in (0.17, rng.uniform(0.34, 0.42), rng.uniform(0.6, 0.7), rng.uniform(0.84, 0.9)):
        sheet = np.exp(-(((warped - np.float32(level)) / np.float32(rng.uniform(0.01, 0.018))) ** 2))
        gaps = np.clip(0.6 + 0.45 * smooth_noise(rng, size, (5, 5)), 0, 1)
        echo = blend(echo, (sheet * gaps).astype(np.float32), 0.85)
    return echo


def _with_mass(rng: np.random.Generator, echo: Canvas) -> Canvas:
    """Add one dark mass and the brighter tissue behind it."""
    size = echo.shape[0]
    x, y = grid(size)
    place = (rng.uniform(-0.32, 0.32), rng.uniform(-0.28, 0.3))
    radii = (rng.uniform(0.24, 0.36), rng.uniform(0.18, 0.27))
    column = np.abs(x - np.float32(place[0] * 1.15)) - np.float32(radii[0] * 0.7)
    trail = step((-column).astype(np.float32), 0.12) * step(
        (y - np.float32(place[1])).astype(np.float32), 0.1
    )
    echo = (echo * (1 + 0.45 * trail)).astype(np.float32)
    edge = 0.13 * smooth_noise(rng, size, 9)
    rim = ellipse(size, place, (radii[0] + 0.035, radii[1] + 0.035), softness=0.08, wobble=edge)
    mass = ellipse(size, place, radii, turn=rng.uniform(-0.3, 0.3), softness=0.05, wobble=edge)
    return blend(blend(echo, 0.7 * rim, 0.62), mass, rng.uniform(0.04, 0.09))


def _speckle(rng: np.random.Generator, size: int) -> Canvas:
    """Multiplicative grain (mean about 1), wider than it is deep, as the beam smears it."""
    fine, coarse = (size * 2 // 5, size * 3 // 5), (size // 5, size * 3 // 10)
    amplitude = np.hypot(smooth_noise(rng, size, fine), smooth_noise(rng, size, coarse))
    return (0.42 + 0.48 * amplitude).astype(np.float32)
