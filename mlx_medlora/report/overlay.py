"""A picture of which patches of an image move the answer, readable without colour."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

SIGNED = 0.1  # of the largest change, from which a patch carries its sign
OUTLINED = 0.5  # of the largest change, from which it is outlined
STILL = 1e-3  # nats; where no patch moves the answer by as much, none is marked
COLOURS = 128  # a third of the bytes: a page holds many of these
_LONGEST = 70


def draw_overlay(path: Path, image: Image.Image, change: npt.NDArray[np.float64], title: str) -> None:
    """Write a PNG: `image`, and beside it the same under `change` (G, G), rows from the top, in nats.

    Above 0 (+, orange) a patch speaks for ERROR, below 0 (-, purple) for CORRECT.
    """
    figure = Figure(figsize=(9.2, 4.6), layout="constrained")
    plain, covered = figure.subplots(1, 2)
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    plain.imshow(image)
    covered.imshow(grey, cmap="gray", vmin=0, vmax=255)
    largest = float(np.abs(change).max())
    limit = max(largest, STILL)
    extent = (0.0, float(width), float(height), 0.0)
    shown = covered.imshow(
        change, cmap="PuOr_r", vmin=-limit, vmax=limit, alpha=0.55, extent=extent, interpolation="nearest"
    )
    covered.set(xlim=(0, width), ylim=(height, 0))
    if largest >= STILL:
        _mark(covered, change, width, height)
    for axes, text in ((plain, _short(title)), (covered, _caption(change, largest))):
        axes.set_title(text, fontsize=8, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
    bar = figure.colorbar(shown, ax=covered, shrink=0.85)
    bar.set_label("+ speaks for ERROR, − for CORRECT\n(change of log-odds, nats)", fontsize=8)
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font lacks are drawn as boxes
        figure.savefig(drawn, format="png", dpi=120)
    small = Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    small.save(path, format="PNG", optimize=True)


def _mark(axes: Axes, change: npt.NDArray[np.float64], width: int, height: int) -> None:
    """Signs in the patches, as large as what they move; outlines round those that move most."""
    grid = len(change)
    across, down = width / grid, height / grid
    strength = np.abs(change) / np.abs(change).max()
    for row, column in np.argwhere(strength >= SIGNED):
        force = strength[row, column]
        sign = "+" if change[row, column] > 0 else "−"
        size = (6 + 8 * force) * min(1.0, 10 / grid)
        centre = ((column + 0.5) * across, (row + 0.5) * down)
        axes.text(*centre, sign, ha="center", va="center", fontsize=size, fontweight="bold")
        if force >= OUTLINED:
            corner = (column * across, row * down)
            axes.add_patch(Rectangle(corner, across, down, fill=False, linewidth=1.8, edgecolor="black"))


def _caption(change: npt.NDArray[np.float64], largest: float) -> str:
    if largest < STILL:
        return "parts of the image hidden in turn: none moves the answer"
    grid = len(change)
    return (
        f"Hidden in turn, {grid} x {grid} patches: the strongest moves {largest:.2f} nats.\n"
        f"Outlined: at least half of that. Unmarked: under a tenth."
    )


def _short(text: str) -> str:
    """Each line cut where it would not fit, without characters that cannot be drawn."""
    lines = ("".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines())
    return "\n".join(line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "..." for line in lines)
