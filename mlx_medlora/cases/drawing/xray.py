"""A frontal chest X-ray: two dark lungs behind ribs, a heart, a diaphragm; the finding is a consolidation."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mlx_medlora.cases.drawing.canvas import Canvas, blend, ellipse, grey_image, grid, smooth_noise, step


def draw(finding: bool, rng: np.random.Generator, size: int = 224) -> Image.Image:
    """Draw one chest, (size, size) grey; with a finding, a white patch fills part of one lung."""
    tilt, breadth = rng.uniform(-0.04, 0.04), rng.uniform(0.93, 1.05)
    body, lungs = _torso(rng, size, breadth), _lungs(rng, size, tilt, breadth)
    canvas = blend(np.full((size, size), 0.03, np.float32), body, rng.uniform(0.52, 0.62))
    canvas = blend(canvas, lungs, rng.uniform(0.12, 0.2))
    canvas = canvas + _ribs(rng, size, tilt) * (0.35 * body + 0.65 * lungs)
    canvas = canvas + lungs * 0.025 * smooth_noise(rng, size, 22)  # vessels
    canvas = blend(canvas, _spine(rng, size, tilt) * body, 0.74)
    canvas = blend(canvas, _heart(rng, size, tilt), rng.uniform(0.72, 0.8))
    canvas = blend(canvas, _collarbones(size, tilt) * body, 0.78)
    if finding:
        canvas = blend(canvas, _consolidation(rng, size, tilt, breadth) * lungs, rng.uniform(0.78, 0.9))
    canvas = canvas + 0.018 * rng.standard_normal((size, size), dtype=np.float32)
    return grey_image(canvas * rng.uniform(0.92, 1.06), blur=size / 450)


def _torso(rng: np.random.Generator, size: int, breadth: float) -> Canvas:
    """Chest with sloping shoulders, and the neck."""
    x, y = grid(size)
    shoulders = step((y + np.float32(0.86) - np.float32(0.42) * x * x).astype(np.float32), 0.05)
    trunk = step((np.float32(0.94 * breadth) - np.abs(x) - 0.12 * y * y).astype(np.float32), 0.05)
    neck = ellipse(size, (0, -0.9), (rng.uniform(0.25, 0.32), 0.5), softness=0.05)
    return np.maximum(shoulders * trunk, neck)


def _lungs(rng: np.random.Generator, size: int, tilt: float, breadth: float) -> Canvas:
    """Two fields, narrow at the top, cut below by the domes of the diaphragm."""
    x, y = grid(size)
    fields = np.zeros((size, size), np.float32)
    for side in (-1, 1):
        centre = side * 0.41 * breadth + tilt
        narrowing = np.float32(0.24) * (1 - np.clip((y + 0.85) / 1.2, 0, 1)) ** 2
        along = (x - np.float32(centre - side * 0.04)) / (np.float32(0.33 * breadth) - narrowing)
        across = (y + np.float32(0.08)) / np.float32(rng.uniform(0.74, 0.8))
        field = step((1 - np.sqrt(along**2 + np.abs(across) ** 3)).astype(np.float32), 0.1)
        dome_top = rng.uniform(0.46, 0.56) + (0.05 if side > 0 else 0.0)
        dome = np.float32(dome_top) + np.float32(0.75) * (x - np.float32(centre)) ** 2 - y
        fields = np.maximum(fields, field * step(dome, 0.04))
    return fields


def _ribs(rng: np.random.Generator, size: int, tilt: float) -> Canvas:
    """Brightness that the ribs add: bands that fall away from the spine, and fainter ones that rise to it."""
    x, y = grid(size)
    spacing, start = rng.uniform(0.165, 0.195), rng.uniform(0, 0.15)
    outward = np.abs(x - np.float32(tilt))
    bands = np.zeros((size, size), np.float32)
    for bend, width, strength in ((0.55, 0.05, 0.19), (-0.5, 0.055, 0.09)):
        row = (y + np.float32(start) - np.float32(bend) * outward**2 * (1.2 - 0.2 * outward)) / np.float32(
            spacing
        )
        off_centre = np.abs(row - np.round(row)) * np.float32(spacing)
        bands = bands + np.float32(strength) * step((width / 2 - off_centre).astype(np.float32), 0.03)
    return bands


def _spine(rng: np.random.Generator, size: int, tilt: float) -> Canvas:
    """The mediastinum, with a faint ladder of vertebrae."""
    x, y = grid(size)
    column = step((np.float32(rng.uniform(0.1, 0.13)) - np.abs(x - np.float32(tilt))).astype(np.float32), 0.1)
    ladder = 0.82 + 0.1 * np.sin(y * np.float32(2 * np.pi / 0.17))
    return (column * ladder).astype(np.float32)


def _heart(rng: np.random.Generator, size: int, tilt: float) -> Canvas:
    """The heart, leaning to the patient's left (the right of the image), above the diaphragm."""
    centre = (tilt + rng.uniform(0.1, 0.15), rng.uniform(0.24, 0.32))
    radii = (rng.uniform(0.25, 0.3), rng.uniform(0.3, 0.35))
    heart = ellipse(size, centre, radii, turn=-0.6, softness=0.06)
    arch = ellipse(size, (tilt + 0.05, -0.28), (0.14, 0.13), softness=0.06)
    return np.maximum(heart, arch)


def _collarbones(size: int, tilt: float) -> Canvas:
    """Two thin bright lines below the neck."""
    left = ellipse(size, (tilt - 0.44, -0.64), (0.36, 0.04), turn=0.14, softness=0.02)
    right = ellipse(size, (tilt + 0.44, -0.64), (0.36, 0.04), turn=-0.14, softness=0.02)
    return np.maximum(left, right)


def _consolidation(rng: np.random.Generator, size: int, tilt: float, breadth: float) -> Canvas:
    """Coverage of one or two fluffy patches inside one lung, clear of the heart."""
    side = rng.choice((-1, 1))
    patch = np.zeros((size, size), np.float32)
    edge = 0.22 * smooth_noise(rng, size, 9)
    for _ in range(rng.integers(1, 3)):
        centre = (tilt + side * breadth * rng.uniform(0.42, 0.54), rng.uniform(-0.36, 0.34))
        radii = (rng.uniform(0.17, 0.25), rng.uniform(0.18, 0.3))
        patch = np.maximum(patch, ellipse(size, centre, radii, softness=0.14, wobble=edge))
    return np.clip(patch * (0.9 + 0.12 * smooth_noise(rng, size, 14)), 0, 1).astype(np.float32)
