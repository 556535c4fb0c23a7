"""Opening images that people bring: any common kind in, 8-bit RGB out, or an error that names the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mlx_medlora import privacy
from mlx_medlora.errors import InputError

MAX_PIXELS = 150_000_000  # a 12,000 x 12,000 tile; larger files are slides or decompression bombs
MAX_BYTES = 1_000_000_000
MIN_SIDE = 4
OPENING = 1  # raise it with every change here that changes an image's pixels: stored features go by it

_HINT = "Replace the file, or remove its row from the table."
# What PIL's readers raise on damaged bytes, besides OSError.
_DAMAGE = (ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)


def open_image(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, upright, its first frame.

    EXIF rotation is applied; 16-bit and floating point greys are scaled to their own range, from 0 to 255;
    transparency is laid on black. Raises InputError, naming the file, where it is missing, empty, truncated,
    not an image, or too large.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's warning of large images: MAX_PIXELS decides
            with Image.open(path) as image:
                _check_size(image, path)
                image.load()
                return _as_rgb(ImageOps.exif_transpose(image))
    except Image.DecompressionBombError as error:
        raise InputError("the image is too large to be opened safely", path=path, hint=_HINT) from error
    except UnidentifiedImageError as error:
        raise InputError("not an image of a known kind (PNG, JPEG, TIFF)", path=path, hint=_HINT) from error
    except (OSError, *_DAMAGE) as error:
        told = privacy.reason(error)
        raise InputError(f"the image is damaged or cut short: {told}", path=path, hint=_HINT) from error


def _check_file(path: Path) -> None:
    if not path.is_file():
        kind = "is a directory, not an image" if path.is_dir() else "no such image file"
        raise InputError(kind, path=path, hint="Check the name, its capital letters and --images.")
    size = path.stat().st_size
    if size == 0:
        raise InputError("the image file is empty (0 bytes)", path=path, hint=_HINT)
    if size > MAX_BYTES:
        raise InputError(
            f"the image file has {size:,} bytes; the limit is {MAX_BYTES:,}", path=path, hint=_HINT
        )


def _check_size(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        message = f"the image has {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all"
        raise InputError(message, path=path, hint="Cut it into tiles, or make it smaller.")
    if min(width, height) < MIN_SIDE:
        raise InputError(f"the image has only {width} x {height} pixels", path=path, hint=_HINT)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any of PIL's modes to RGB."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scaled_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (0, 0, 0, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image.Image) -> Image.Image:
    """Map the darkest value to 0 and the brightest to 255: scanners use 10 to 12 of the 16 bits."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
