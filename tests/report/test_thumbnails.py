import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.report.thumbnails import LARGEST, LEAST, MOST, SMALLEST, thumbnail, thumbnails


def noise(path: Path, *size: int) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def opened(uri: str | None) -> Image.Image:
    assert uri is not None
    assert uri.startswith("data:image/webp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_as_large_as_the_room_allows(tmp_path: Path) -> None:
    file = noise(tmp_path / "a.png", 900, 600)
    sizes = []
    for most in (10**9, 40_000, 6_000, 3_000):
        uri = thumbnail(file, most)
        image = opened(uri)
        assert len(uri or "") <= most
        assert image.width / image.height == pytest.approx(1.5, rel=0.03)
        sizes.append(image.width)
    assert sizes[0] == LARGEST
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert opened(thumbnail(file, 1)).width == SMALLEST  # smaller shows nothing
    assert opened(thumbnail(noise(tmp_path / "b.png", 30, 20), 10**6)).size == (30, 20)  # never made larger


def test_all_of_them_within_the_budget_in_their_order(tmp_path: Path) -> None:
    files = [noise(tmp_path / f"{number}.png", 60 + number, 80) for number in range(40)]
    (tmp_path / "7.png").write_bytes(b"broken")
    moves: list[tuple[int, int]] = []
    found = thumbnails(files, 40 * 4000, lambda done, total: moves.append((done, total)))
    assert found[7] is None
    assert sum(len(uri or "") for uri in found) <= 40 * 4000
    tall = [None if uri is None else opened(uri).height > opened(uri).width for uri in found]
    assert tall[:18] == [True] * 7 + [None] + [True] * 10
    assert tall[23:] == [False] * 17
    assert moves[-1] == (40, 40)
    assert found == thumbnails(files, 40 * 4000)
    assert LEAST < MOST
    assert thumbnails([], 10) == []
