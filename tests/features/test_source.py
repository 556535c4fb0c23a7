"""Features by file: the same bits whatever was stored, and what a run does where the store fails it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from stores import Open, Pixels, bits, shards

from mlx_medlora.errors import InputError
from mlx_medlora.features import source as source_module
from mlx_medlora.features.identity import Identity, identify
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.features.store import Store
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder, load_processor


@pytest.mark.parametrize("stored", [0, 1, 3, 8])
def test_the_bits_do_not_depend_on_what_was_stored(
    opened: Open, files: list[Path], plain: dict[Path, bytes], passes: list[int], stored: int
) -> None:
    opened().fill(files[:stored])
    assert passes == [1] * stored
    passes.clear()
    found = opened()
    found.fill(files)
    assert (found.use.stored, found.use.computed) == (stored, 8 - stored)
    assert passes == [1] * (8 - stored)
    assert bits(found, files) == plain
    assert passes == [1] * (8 - stored)  # nothing is computed twice


def test_what_is_asked_for_on_the_way_is_kept_too(
    opened: Open, files: list[Path], plain: dict[Path, bytes], passes: list[int]
) -> None:
    with opened() as first:
        assert bits(first, files) == plain
    passes.clear()
    with opened() as second:
        assert bits(second, files) == plain
        assert second.use.stored == len(files)
    assert passes == []


@pytest.mark.parametrize("place", ["store", "no disk", "memory"])
@pytest.mark.parametrize("first", [0, 3, 8])
def test_what_a_second_fill_computes_is_kept_too(
    tiny_model: Gemma3,
    encoder: Pixels,
    opened: Open,
    root: Path,
    files: list[Path],
    plain: dict[Path, bytes],
    passes: list[int],
    place: str,
    first: int,
) -> None:
    """As ranks do: their share first, then all."""
    if place == "no disk":
        root.write_text("a file stands where the directory should be")
    found = ImageFeatures(tiny_model, encoder) if place == "memory" else opened()
    found.fill(files[:first])
    found.fill(files)
    assert passes == [1] * 8
    assert bits(found, files) == plain
    assert passes == [1] * 8
    assert found.complete
    assert (found.use.stored, found.use.computed) == (0, 8)


def test_a_second_fill_at_the_limit_counts_each_image_once(
    opened: Open, files: list[Path], identity: Identity
) -> None:
    found = opened(int(3.5 * (identity.nbytes + 512)))
    found.fill(files[:5])
    assert (found.use.computed, found.use.left) == (3, 2)
    found.fill(files)
    assert (found.use.stored, found.use.computed, found.use.left) == (0, 3, 5)
    assert not found.complete


def test_what_another_process_wrote_between_two_fills_is_no_longer_left(
    opened: Open, files: list[Path], identity: Identity
) -> None:
    found = opened(int(3.5 * (identity.nbytes + 512)))
    found.fill(files)
    assert found.use.left == 5
    opened().fill(files)
    assert found.store is not None
    found.store.refresh()
    found.fill(files)
    assert (found.use.stored, found.use.computed, found.use.left) == (5, 3, 0)
    assert found.complete


@pytest.mark.parametrize("place", ["store", "memory"])
def test_an_image_that_changes_before_its_turn_ends_the_run_and_spoils_no_store(
    tiny_model: Gemma3,
    encoder: Pixels,
    opened: Open,
    files: list[Path],
    plain: dict[Path, bytes],
    place: str,
) -> None:
    original = files[1].read_bytes()

    def change(done: int, total: int) -> None:
        shutil.copyfile(files[2], files[1])

    found = ImageFeatures(tiny_model, encoder) if place == "memory" else opened()
    with pytest.raises(InputError, match=r"1\.png: the image has changed since it was first read"):
        found.fill(files[:2], change)
    files[1].write_bytes(original)
    again = ImageFeatures(tiny_model, encoder) if place == "memory" else opened()
    assert bits(again, files) == plain
    assert again.use.stored == (place == "store")


def test_features_are_of_the_bytes_that_were_hashed(
    opened: Open, files: list[Path], plain: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever stands in the file while it is decoded, and if only then."""
    plainly, other = source_module.open_image, files[0].read_bytes()

    def swapped(file: Path, *data: bytes) -> Image.Image:
        original = file.read_bytes()
        file.write_bytes(other)
        try:
            return plainly(file, *data)
        finally:
            file.write_bytes(original)

    with monkeypatch.context() as patch:
        patch.setattr(source_module, "open_image", swapped)
        opened().fill(files)
    assert bits(opened(), files) == plain


@pytest.mark.parametrize("halved", ["vision_tower", "multi_modal_projector", "language_model"])
def test_weights_of_several_dtypes_are_stored_and_found(
    tiny_model: Gemma3, encoder: Pixels, root: Path, said: list[str], files: list[Path], halved: str
) -> None:
    getattr(tiny_model, halved).set_dtype(mx.bfloat16)
    plain = bits(ImageFeatures(tiny_model, encoder), files)
    for stored in (0, 8):
        store = Store(root, identify(tiny_model, encoder), 10**9, said.append)
        found = ImageFeatures(tiny_model, encoder, store, tell=said.append)
        found.fill(files)
        assert (found.use.stored, found.use.computed) == (stored, 8 - stored)
        assert bits(found, files) == plain
    assert said == []


def test_a_file_replaced_under_the_same_name_is_computed_anew(
    opened: Open, files: list[Path], plain: dict[Path, bytes]
) -> None:
    opened().fill(files)
    status = files[0].stat()
    shutil.copyfile(files[1], files[0])
    os.utime(files[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert np.array(opened()[files[0]]).tobytes() == plain[files[1]]


def test_copies_of_a_file_go_through_the_tower_once(
    opened: Open, files: list[Path], tmp_path: Path, passes: list[int]
) -> None:
    copy = tmp_path / "copy.png"
    shutil.copyfile(files[0], copy)
    found = opened()
    found.fill([files[0], copy])
    assert passes == [1]
    assert mx.array_equal(found[files[0]], found[copy])


def test_an_interrupt_keeps_what_was_computed(
    opened: Open, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        opened().fill(files, stop)
    again = opened()
    again.fill(files)
    assert (again.use.stored, again.use.computed) == (3, 5)


def test_progress_counts_all_images_and_ends_with_all(opened: Open, files: list[Path]) -> None:
    for expected in ([(6, 8), (7, 8), (8, 8)], [(8, 8)]):
        opened().fill(files[:5])
        told: list[tuple[int, int]] = []
        opened().fill(files, lambda *at, told=told: told.append(at))
        assert told == expected


@pytest.mark.parametrize("memory", [0, 3000, 10**9])
def test_memory_has_a_limit_too(
    tiny_model: Gemma3,
    encoder: Pixels,
    files: list[Path],
    plain: dict[Path, bytes],
    passes: list[int],
    memory: int,
) -> None:
    found = ImageFeatures(tiny_model, encoder, memory=memory)
    found.fill(files)
    held = {0: 0, 3000: 3, 10**9: 8}[memory]
    assert found.use.left == 8 - held
    assert found.complete == (held == 8)
    passes.clear()
    assert bits(found, files) == plain
    assert len(passes) == 8 - held
    assert found.use.sentence().startswith(f"image features: {held} computed, in memory")


def test_an_image_that_cannot_be_read_is_named(opened: Open, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    for file, message in ((tmp_path / "bad.png", "not an image"), (tmp_path / "none.png", "no such image")):
        with pytest.raises(InputError, match=message):
            opened().fill([*files[:2], file])
    assert opened().store is not None
    found = opened()
    found.fill(files[:2])
    assert found.use.stored == 2  # what came before the bad file is kept


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_features_lost_after_the_tower_was_dropped_come_back_bit_by_bit(
    tiny_medgemma: Path, phantom_dataset: Path, root: Path, said: list[str], how: str
) -> None:
    model = load_base(tiny_medgemma, mx.bfloat16)
    assert isinstance(model, Gemma3)
    encoder = Encoder(load_processor(tiny_medgemma), model.config)
    files = sorted((phantom_dataset / "images").iterdir())[:4]
    plain = ImageFeatures(model, encoder)
    wanted = [plain[file] for file in files]
    found = ImageFeatures(
        model, encoder, Store(root, identify(model, encoder), 10**9, said.append), tell=said.append
    )
    found.fill(files)
    model.drop_tower()
    assert mx.array_equal(found[files[0]], wanted[0])
    found.store._maps.clear()  # type: ignore[union-attr]
    for path in shards(root):
        if how == "removed":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    for _ in range(2):
        assert all(mx.array_equal(found[file], one) for file, one in zip(files, wanted, strict=True))
    assert sum("the vision tower is loaded again" in text for text in said) == 1
    assert not model.has_tower


def test_images_of_any_mode_are_the_towers(opened: Open, tiny_model: Gemma3, tmp_path: Path) -> None:
    """An image whose EXIF turns it has the features of the upright one."""
    rng = np.random.default_rng(1)
    upright = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.save(tmp_path / "upright.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    found = opened()
    assert mx.array_equal(found[tmp_path / "upright.png"], found[tmp_path / "turned.png"])
