"""Opening images that people bring: any common kind in, 8-bit RGB out, or an error that names the file."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from mlx_medlora import privacy
from mlx_medlora.errors import InputError

MAX_PIXELS = 64_000_000  # an 8,000 x 8,000 tile, opened within 1 GB; larger ones are slides or bombs
MAX_BYTES = 500_000_000
MIN_SIDE = 4
# PIL knows forty more: readers that few people use, and one (EPS) that starts another program.
KINDS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_SCANS = 100  # a JPEG has 1, a progressive one about 10; each is a pass over all pixels
_STRIP = 4_000_000  # pixels that are converted at once
OPENING = 1  # raise it with every change here that changes an image's pixels: stored features go by it

_NAMES = "PNG, JPEG, JPEG 2000, TIFF, BMP, GIF, WebP"
_HINT = "Replace the file, or remove its row from the table."
_CLEAR = ("RGBA", "LA", "PA", "RGBa", "La")
# What PIL's readers raise on damaged bytes, besides OSError.
_DAMAGE = (ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)


def read_image(path: Path) -> bytes:
    """An image file's bytes. Raises InputError, naming the file, where `open_image` would not read them."""
    _check_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the image cannot be read: {error.strerror}", path=path) from error


def open_image(path: Path, data: bytes | None = None) -> Image.Image:
    """Read an image as 8-bit RGB, upright, its first frame; from `data` where its bytes are read already.

    The content decides what it is, not the name. EXIF rotation is applied; 16-bit and floating point greys
    are scaled to their own range, from 0 to 255; transparency is laid on black. Raises InputError, naming the
    file, where it is missing, empty, truncated, not an image of a kind in KINDS, or too large.
    """
    if data is None:
        _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's warning of large images: MAX_PIXELS decides
            with Image.open(path if data is None else BytesIO(data), formats=KINDS) as image:
                _check_size(image, path)
                if image.format in ("JPEG", "MPO"):
                    _check_scans(path, data)
                image.load()
                ImageOps.exif_transpose(image, in_place=True)  # a copy would take as much memory again
                return _as_rgb(image)
    except Image.DecompressionBombError as error:
        raise InputError("the image is too large to be opened safely", path=path, hint=_HINT) from error
    except UnidentifiedImageError as error:
        raise InputError(f"not an image of a known kind ({_NAMES})", path=path, hint=_HINT) from error
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


def _check_scans(path: Path, data: bytes | None) -> None:
    """Refuse a JPEG that would be decoded over and over; a scan begins with FF DA."""
    found, last = 0, b""
    with path.open("rb") if data is None else BytesIO(data) as stream:
        while block := stream.read(1 << 20):
            found += (last + block).count(b"\xff\xda")
            last = block[-1:]
    if found > _SCANS:
        raise InputError(f"the JPEG has {found:,} scans; the limit is {_SCANS}", path=path, hint=_HINT)


def _as_rgb(image: Image.Image) -> Image.Image:
    """Any of PIL's modes to RGB, strip by strip: copies of the whole would take gigabytes."""
    grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if not grey and image.mode not in _CLEAR and "transparency" not in image.info:
        return image.convert("RGB")
    low, high = _range(image) if grey else (0.0, 0.0)
    made = Image.new("RGB", image.size)
    for box in _strips(image.size):
        part = image.crop(box)
        made.paste(_scaled_grey(part, low, high) if grey else _on_black(part), box)
    return made


def _strips(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    width, height = size
    rows = max(1, _STRIP // width)
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]


def _on_black(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, layer).convert("RGB")


def _values(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _range(image: Image.Image) -> tuple[float, float]:
    """The darkest and the brightest value."""
    ends = [(part.min(), part.max()) for box in _strips(image.size) for part in [_values(image.crop(box))]]
    return float(min(low for low, _ in ends)), float(max(high for _, high in ends))


def _scaled_grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """Map the darkest value to 0 and the brightest to 255: scanners use 10 to 12 of the 16 bits."""
    values = _values(image)
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(np.rint(scaled).astype(np.uint8)).convert("RGB")
