"""An axial brain with dark fluid, as on FLAIR: scalp, folds, ventricles; the finding is a bright lesion."""

from __future__ import annotations

import numpy as np
from PIL import Image

from mlx_medlora.cases.drawing.canvas import Canvas, blend, ellipse, grey_image, grid, smooth_noise, step


def draw(finding: bool, rng: np.random.Generator, size: int = 224) -> Image.Image:
    """Draw one slice, (size, size) grey; with a finding, a bright lesion in a paler halo."""
    centre = (rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03))
    radii = (rng.uniform(0.66, 0.72), rng.uniform(0.8, 0.86))
    turn = rng.uniform(-0.06, 0.06)
    brain, depth = _brain(rng, size, centre, radii, turn)
    canvas = _head(size, centre, radii, turn, rng)
    canvas = blend(canvas, brain, _tissue(rng, size, depth))
    canvas = blend(canvas, _fissure(rng, size, centre, turn) * brain, 0.1)
    canvas = blend(canvas, _ventricles(rng, size, centre, turn), 0.07)
    if finding:
        canvas = _with_lesion(canvas, brain, centre, rng)
    grain = rng.uniform(0.015, 0.03) * rng.standard_normal((size, size), dtype=np.float32)
    return grey_image(((canvas + grain) * rng.uniform(0.92, 1.08)).astype(np.float32), blur=size / 400)


def _head(
    size: int, centre: tuple[float, float], radii: tuple[float, float], turn: float, rng: np.random.Generator
) -> Canvas:
    """A bright scalp around a black skull on a black background."""
    scalp = ellipse(size, centre, (radii[0] + 0.17, radii[1] + 0.13), turn=turn, softness=0.03)
    skull = ellipse(size, centre, (radii[0] + 0.11, radii[1] + 0.075), turn=turn, softness=0.03)
    canvas = blend(np.full((size, size), 0.015, np.float32), scalp, rng.uniform(0.5, 0.66))
    return blend(canvas, skull, 0.05)


def _brain(
    rng: np.random.Generator, size: int, centre: tuple[float, float], radii: tuple[float, float], turn: float
) -> tuple[Canvas, Canvas]:
    """The brain's coverage, and how deep each pixel lies (0 at the surface, 1 in the middle)."""
    x, y = grid(size)
    bumps = 0.035 * smooth_noise(rng, size, 12)
    brain = ellipse(size, centre, radii, turn=turn, softness=0.03, wobble=bumps)
    reach = np.sqrt(((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2)
    return brain, np.clip(1 - reach + bumps, 0, 1).astype(np.float32)


def _tissue(rng: np.random.Generator, size: int, depth: Canvas) -> Canvas:
    """Grey matter folded around darker white matter, with dark furrows that run in from the surface."""
    folds = smooth_noise(rng, size, 15)
    ribbon = step((np.float32(0.13) + 0.09 * folds - depth).astype(np.float32), 0.08)
    furrow = np.exp(-((folds / np.float32(0.22)) ** 2)) * np.clip(1 - depth / np.float32(0.3), 0, 1)
    tissue = np.float32(0.37) + 0.14 * ribbon - 0.3 * furrow + 0.012 * smooth_noise(rng, size, 8)
    return tissue.astype(np.float32)


def _fissure(rng: np.random.Generator, size: int, centre: tuple[float, float], turn: float) -> Canvas:
    """The dark line between the hemispheres, in front and behind."""
    x, y = grid(size)
    wave = 0.012 * smooth_noise(rng, size, (1, 8))
    line = np.abs(x - np.float32(centre[0]) + np.float32(turn) * y + wave)
    return step((np.float32(0.014) - line).astype(np.float32), 0.02) * step(
        (np.abs(y) - 0.3).astype(np.float32), 0.1
    )


def _ventricles(rng: np.random.Generator, size: int, centre: tuple[float, float], turn: float) -> Canvas:
    """Two dark wings beside the midline."""
    spread, girth = rng.uniform(0.1, 0.13), rng.uniform(0.045, 0.075)
    wings = np.zeros((size, size), np.float32)
    for side in (-1, 1):
        front = (centre[0] + side * spread, centre[1] - 0.14)
        back = (centre[0] + side * (spread + 0.03), centre[1] + 0.16)
        wings = np.maximum(wings, ellipse(size, front, (girth, 0.21), turn=side * 0.3 + turn))
        wings = np.maximum(wings, ellipse(size, back, (girth * 0.9, 0.2), turn=-side * 0.35 + turn))
    return wings


def _with_lesion(
    canvas: Canvas, brain: Canvas, centre: tuple[float, float], rng: np.random.Generator
) -> Canvas:
    """Add one bright lesion to one hemisphere, with the swelling around it."""
    side = rng.choice((-1, 1))
    place = (centre[0] + side * rng.uniform(0.28, 0.4), centre[1] + rng.uniform(-0.4, 0.4))
    radii = (rng.uniform(0.14, 0.22), rng.uniform(0.14, 0.22))
    edge = 0.16 * smooth_noise(rng, size := canvas.shape[0], 8)
    halo = ellipse(size, place, (radii[0] * 1.5, radii[1] * 1.5), softness=0.2, wobble=edge)
    core = ellipse(size, place, radii, softness=0.05, wobble=edge)
    canvas = blend(canvas, 0.75 * halo * brain, 0.62)
    return blend(canvas, core * brain, rng.uniform(0.9, 1.0))
