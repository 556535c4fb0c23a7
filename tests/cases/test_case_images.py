import io
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mlx_medlora.cases import images
from mlx_medlora.cases.images import open_image
from mlx_medlora.errors import InputError


def encoded(kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP", "WEBP")}


@pytest.mark.parametrize("kind", ENCODED)
def test_common_kinds_open_as_rgb(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(ENCODED[kind])
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (30, 40))


@pytest.mark.parametrize("kind", ENCODED)
def test_bytes_that_were_read_open_as_the_file_would(tmp_path, kind):
    path = tmp_path / "image"
    path.write_bytes(ENCODED[kind])
    data, whole = images.read_image(path), np.asarray(open_image(path))
    path.write_bytes(b"something else")
    assert np.array_equal(np.asarray(open_image(path, data)), whole)
    with pytest.raises(InputError, match="damaged or cut short"):
        open_image(path, data[: len(data) // 2])


def test_scans_are_counted_in_bytes_too(tmp_path):
    data = ENCODED["JPEG"] + b"\xff\xda" * 200
    with pytest.raises(InputError, match="201 scans"):
        open_image(tmp_path / "x.jpg", data)


def test_what_would_not_be_opened_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "x.png").write_bytes(ENCODED["PNG"])
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="the limit is 100"):
        images.read_image(tmp_path / "x.png")
    with pytest.raises(InputError, match="no such image file"):
        images.read_image(tmp_path / "none.png")


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "YCbCr"])
def test_other_modes_become_rgb(tmp_path, mode):
    kind = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(tmp_path / "x", kind)
    image = open_image(tmp_path / "x")
    assert image.mode == "RGB"
    assert np.asarray(image).min() >= 254


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "x.jpg", exif=exif)
    assert open_image(tmp_path / "x.jpg").size == (10, 20)


def test_sixteen_bits_are_scaled_to_their_own_range(tmp_path):
    values = np.array([[100, 1100, 2100, 4100]] * 4, np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png"))[0, :, 0].tolist() == [0, 64, 128, 255]


def test_floats_that_are_not_finite_do_no_harm(tmp_path):
    values = np.array([[0, np.nan, np.inf, 1.0]] * 4, np.float32)
    Image.fromarray(values).save(tmp_path / "x.tiff")
    assert np.asarray(open_image(tmp_path / "x.tiff"))[0, :, 0].tolist() == [0, 0, 0, 255]


def test_transparency_lies_on_black(tmp_path):
    Image.new("RGBA", (8, 8), (255, 255, 255, 0)).save(tmp_path / "x.png")
    assert np.asarray(open_image(tmp_path / "x.png")).max() == 0


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(open_image(tmp_path / "x.gif"))[0, 0].tolist() == [10, 10, 10]


def test_bad_files_are_told_apart(tmp_path):
    path = tmp_path / "x.png"
    for content, said in (
        (None, "no such image file"),
        (b"", "the image file is empty (0 bytes)"),
        (b"patient,age\n1,2\n", "not an image of a known kind"),
        (ENCODED["PNG"][: len(ENCODED["PNG"]) // 2], "damaged or cut short"),
        (ENCODED["JPEG"][: len(ENCODED["JPEG"]) // 2], "damaged or cut short"),
    ):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError) as caught:
            open_image(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert said in str(caught.value)
        assert caught.value.hint
    with pytest.raises(InputError, match="is a directory"):
        open_image(tmp_path)


def test_a_bomb_and_a_speck_are_refused(tmp_path, monkeypatch):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(InputError, match="too large"):
        open_image(tmp_path / "bomb.png")
    Image.new("L", (2, 50)).save(tmp_path / "speck.png")
    with pytest.raises(InputError, match="only 2 x 50 pixels"):
        open_image(tmp_path / "speck.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    (tmp_path / "big.png").write_bytes(ENCODED["PNG"])
    with pytest.raises(InputError, match="30 x 40 pixels; the limit is 1,000"):
        open_image(tmp_path / "big.png")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(ENCODED)),
    changes=st.lists(st.tuples(st.integers(0, 3999), st.integers(0, 255)), min_size=1, max_size=6),
    end=st.integers(0, 4000),
)
def test_damage_gives_an_image_or_an_input_error_and_nothing_else(tmp_path_factory, kind, changes, end):
    content = bytearray(ENCODED[kind][:end])
    for place, value in changes:
        if place < len(content):
            content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(content))
    with suppress(InputError):
        assert open_image(path).mode == "RGB"


def test_readers_that_start_programs_are_not_asked(tmp_path):
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n")
    with pytest.raises(InputError, match="not an image of a known kind"):
        open_image(tmp_path / "x.png")


@pytest.mark.parametrize("mode", ["I;16", "F", "RGBA", "LA"])
def test_strips_change_no_pixel(tmp_path, monkeypatch, mode):
    grey = np.random.default_rng(3).integers(0, 5000, (50, 31))
    made = Image.fromarray(grey.astype(np.uint16 if mode == "I;16" else np.float32))
    if mode in ("RGBA", "LA"):
        made = Image.fromarray(np.random.default_rng(4).integers(0, 256, (50, 31, 4), np.uint8)).convert(mode)
    made.save(tmp_path / "x.tiff")
    whole = np.asarray(open_image(tmp_path / "x.tiff"))
    monkeypatch.setattr(images, "_STRIP", 100)
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.tiff")), whole)
