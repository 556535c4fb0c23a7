"""Phantoms: drawings of four imaging modalities, with and without a finding.

They stand for the real thing so that the whole path can be shown and tested without patient data. They are
drawings and carry no clinical information.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from PIL import Image

from mlx_medlora.cases.drawing import histopathology, mri, ultrasound, xray

Modality = Literal["xray", "histopathology", "mri", "ultrasound"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)

_DRAWERS: dict[str, Callable[[bool, np.random.Generator, int], Image.Image]] = {
    "xray": xray.draw,
    "histopathology": histopathology.draw,
    "mri": mri.draw,
    "ultrasound": ultrasound.draw,
}


def draw(modality: str, finding: bool, rng: np.random.Generator, size: int = 224) -> Image.Image:
    """Draw one phantom of `size` pixels a side: RGB for histopathology, grey ("L") for the others.

    The same generator state gives the same image. Raises ValueError for a modality not in MODALITIES.
    """
    if modality not in _DRAWERS:
        raise ValueError(f"unknown modality {modality!r}; the phantoms know {', '.join(MODALITIES)}")
    return _DRAWERS[modality](finding, rng, size)
