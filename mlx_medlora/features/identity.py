"""What decides an image's features besides its own bytes; one digest stands for all of it."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import PIL
from PIL import Image

from mlx_medlora.backend import blas_kernel
from mlx_medlora.cases.images import OPENING
from mlx_medlora.features.tower import features_dtype, tower_digest
from mlx_medlora.gemma.model import Gemma3

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

FORMAT = 1  # of the store's files, and of how features are computed from what is named here


@dataclass(frozen=True)
class Identity:
    """`digest` (hexadecimal SHA-256) over `about`; features are (T, D) of `dtype`."""

    digest: str
    about: dict[str, Any]
    shape: tuple[int, int]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        """Bytes of one image's features."""
        return self.shape[0] * self.shape[1] * self.dtype.size


def identify(model: Gemma3, encoder: Encoder, memo: Path | None = None) -> Identity:
    """Everything that decides the bits: weights, geometry, pixels, and the arithmetic's library and device.

    `memo` remembers the weights' digest, as in `tower_digest`.
    """
    config = model.config
    assert config.vision is not None
    shape = (config.mm_tokens_per_image, config.text.hidden_size)
    dtype = features_dtype(model)
    about = {
        "format": FORMAT,
        "weights": tower_digest(model, memo),
        "vision": config.vision.model_dump(mode="json"),
        "shape": list(shape),
        "dtype": str(dtype),
        "pixels": _pixels(encoder),
        "arithmetic": arithmetic(),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return Identity(digest, about, shape, dtype)


def _pixels(encoder: Encoder) -> dict[str, Any]:
    """How files become pixels: the decoder, what `open_image` does, the processor's settings, and a probe.

    The probe's pixels tell what no version number does: another resize, another order of operations.
    """
    processor = getattr(getattr(encoder, "processor", None), "image_processor", None)
    settings = {} if processor is None else json.loads(json.dumps(processor.to_dict(), default=str))
    rng = np.random.default_rng(0)
    sides = ((37, 53), (1100, 900))  # made larger, made smaller
    probe = [Image.fromarray(rng.integers(0, 256, (*side, 3), dtype=np.uint8)) for side in sides]
    return {
        "pillow": PIL.__version__,
        "opening": OPENING,
        "processor": type(processor).__name__,
        "settings": settings,
        "probe": hashlib.sha256(np.ascontiguousarray(encoder.pixels(probe)).tobytes()).hexdigest(),
    }


def arithmetic() -> dict[str, str]:
    """Products of matrices differ in their last bits between devices, BLAS kernels and numbers of threads."""
    info = mx.device_info()
    return {
        "mlx": version("mlx"),
        "device": mx.default_device().type.name,
        "hardware": f"{platform.machine()} {info.get('architecture', '')} {info.get('device_name', '')}",
        "blas": blas_kernel() if mx.default_device().type == mx.DeviceType.cpu else "",
    }
