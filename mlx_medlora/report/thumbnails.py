"""Images small enough that a page of thousands of cases stays one file that opens."""

from __future__ import annotations

import base64
import io
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from mlx_medlora.cases.images import open_image
from mlx_medlora.errors import InputError

MOST = 40_000  # characters for one image, however few there are
LEAST = 1_200  # below this nothing can be recognised: the page then grows instead
LARGEST, SMALLEST = 448, 64  # pixels of the longer side
QUALITY = 72

Progress = Callable[[int, int], None]


def thumbnails(files: Sequence[Path], budget: int, progress: Progress | None = None) -> list[str | None]:
    """A data URI for each file, all together about `budget` characters; None where one cannot be opened.

    The same bytes for the same images and budget, whatever the number of threads.
    """
    if not files:
        return []
    each = max(LEAST, min(MOST, budget // len(files)))
    found: list[str | None] = []
    # Threads share the warnings' filters: one block around them all puts them back.
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        for uri in pool.map(lambda file: thumbnail(file, each), files):
            found.append(uri)
            if progress is not None:
                progress(len(found), len(files))
    return found


def thumbnail(file: Path, most: int) -> str | None:
    """A data URI of at most `most` characters, LARGEST to SMALLEST pixels long; None where it is no image."""
    try:
        image = open_image(file)
    except InputError:
        return None
    side = LARGEST
    while True:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        uri = _uri(image)
        longer = max(image.size)
        if len(uri) <= most or longer <= SMALLEST:
            return uri
        side = max(SMALLEST, min(longer - 1, int(longer * math.sqrt(most / len(uri)))))  # goes as the area


def _uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
