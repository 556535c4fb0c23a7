"""Features on disk: bits, privacy, damage, the limit, and places that cannot be written."""

from __future__ import annotations

import os
import resource
import stat
import time
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from stores import Open, bits, shards

from mlx_medlora.features import shard as shard_module
from mlx_medlora.features.identity import Identity
from mlx_medlora.features.store import Store


def key(number: int) -> bytes:
    return bytes([number]) * 32


def features(identity: Identity, number: int = 0) -> mx.array:
    return mx.random.normal(identity.shape, key=mx.random.key(number)).astype(identity.dtype)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_every_bit_comes_back(identity: Identity, root: Path, said: list[str], dtype: mx.Dtype) -> None:
    same = replace(identity, dtype=dtype)
    odd = mx.array([float("nan"), float("inf"), -0.0, 1e-40, 3.0e38], dtype)
    array = mx.concatenate([odd, features(same).reshape(-1)[5:].astype(dtype)]).reshape(same.shape)
    store = Store(root, same, 10**9, said.append)
    assert store.put(key(1), array)
    pending = store.get(key(1))
    store.flush()
    stored = Store(root, same, 10**9, said.append).get(key(1))
    kind = mx.uint32 if dtype == mx.float32 else mx.uint16
    for found in (pending, stored):
        assert found is not None
        assert found.dtype == dtype
        assert mx.array_equal(found.view(kind), array.view(kind))
    assert said == []


def test_files_are_ordinary_safetensors(identity: Identity, root: Path, said: list[str]) -> None:
    store = Store(root, identity, 10**9, said.append)
    array = features(identity)
    store.put(key(1), array)
    store.flush()
    loaded = mx.load(str(shards(root)[0]))
    assert list(loaded) == [key(1).hex()]
    assert mx.array_equal(loaded[key(1).hex()], array)


def test_only_the_owner_can_read_them(opened: Open, files: list[Path], root: Path) -> None:
    before = os.umask(0)
    try:
        opened().fill(files)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root, *root.rglob("*"))}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert "patient data" in (root / "README").read_text()


def spoil(path: Path, way: str) -> None:
    data = bytearray(path.read_bytes())
    if way == "a bit":
        data[-100] ^= 1
    elif way == "the header":
        data[20] ^= 0x80
    elif way == "a checksum":
        place = data.index(b"crc32") + 8
        data[place] = ord("0") if data[place] != ord("0") else ord("1")
    elif way == "the order":  # two images' features change places
        half = (len(data) - data.rindex(b"}") - 1) // 2
        data[-half:], data[-2 * half : -half] = data[-2 * half : -half], data[-half:]
    else:
        data = data[: {"cut": len(data) - 1, "cut in the header": 50, "empty": 0}[way]]
    path.write_bytes(data)


WAYS = ("a bit", "the header", "a checksum", "the order", "cut", "cut in the header", "empty")


@pytest.mark.parametrize("way", WAYS)
def test_what_is_damaged_is_computed_again_and_said(
    opened: Open, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes], way: str
) -> None:
    opened().fill(files)
    spoil(shards(root)[0], way)
    second = opened()
    second.fill(files)
    assert bits(second, files) == plain
    use = second.use
    assert use.computed + use.again == len(files)
    assert len(said) == 1
    assert str(root) in said[0]
    assert "computed again" in said[0]
    third = opened()
    third.fill(files)
    assert third.use.stored == len(files)
    assert len(said) == 1
    assert bits(third, files) == plain


def test_damage_that_takes_good_neighbours_along_is_counted(
    opened: Open, files: list[Path], root: Path
) -> None:
    opened().fill(files)
    spoil(shards(root)[0], "a bit")
    second = opened()
    second.fill(files)
    assert (second.use.stored, second.use.computed, second.use.again) == (0, 0, len(files))
    assert second.use.sentence() == (
        "image features: 0 from the store, 0 computed, 8 computed again (damaged)"
    )


def test_a_file_cut_while_it_is_used_is_noticed(
    opened: Open, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes]
) -> None:
    first = opened()
    first.fill(files)
    first.store._maps.clear()  # type: ignore[union-attr]
    spoil(shards(root)[0], "cut")
    assert bits(first, files) == plain
    assert "cut short" in said[0]


def test_another_models_file_is_left_alone_and_said(
    opened: Open, identity: Identity, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes]
) -> None:
    other = Store(root, replace(identity, digest="f" * 64), 10**9, said.append)
    other.put(key(1), features(identity))
    other.flush()
    [theirs] = shards(root)
    place = root / identity.digest[:32] / theirs.name
    place.parent.mkdir()
    theirs.rename(place)
    found = opened()
    found.fill(files)
    assert bits(found, files) == plain
    assert place.exists()
    assert len(said) == 1
    assert "another program, model or processor" in said[0]


def test_a_file_of_something_else_is_left_alone(
    opened: Open, identity: Identity, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes]
) -> None:
    place = root / identity.digest[:32] / "weights.safetensors"
    place.parent.mkdir(parents=True)
    mx.save_safetensors(str(place), {"lm_head.weight": mx.ones((2, 2))})
    found = opened()
    found.fill(files)
    assert bits(found, files) == plain
    assert place.exists()
    assert len(said) == 1


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def fill_one(root: Path, identity: Identity, number: int, limit: int = 10**9) -> Path:
    before = set(shards(root))
    store = Store(root, identity, limit, lambda text: None)
    assert store.put(key(number), features(identity, number))
    store.flush()
    [new] = set(shards(root)) - before
    return new


def test_the_least_recently_used_goes_first(identity: Identity, root: Path, said: list[str]) -> None:
    paths = [fill_one(root, identity, number) for number in range(4)]
    other = fill_one(root, replace(identity, digest="e" * 64), 9)  # of another model, used least recently
    for path, seconds in zip([*paths, other], (400, 300, 200, 100, 500), strict=True):
        age(path, seconds)
    size = paths[0].stat().st_size
    reader = Store(root, identity, 10**9, said.append)
    assert reader.get(key(0)) is not None  # used now
    limit = 5 * size + size // 2
    store = Store(root, identity, limit, said.append)
    assert store.put(key(7), features(identity))
    store.flush()
    left = set(shards(root))
    assert other not in left
    assert paths[0] in left
    assert sum(path.stat().st_size for path in left) <= limit


def test_the_limit_holds_and_what_this_run_uses_stays(
    opened: Open, files: list[Path], root: Path, identity: Identity, plain: dict[Path, bytes]
) -> None:
    limit = int(5.5 * (identity.nbytes + 512))
    found = opened(limit)
    found.fill(files)
    assert not found.complete
    kept = len(files) - found.use.left
    assert kept == 6
    assert sum(path.stat().st_size for path in shards(root)) <= limit
    assert bits(found, files) == plain
    again = opened(limit)
    again.fill(files)
    assert (again.use.stored, again.use.computed, again.use.left) == (kept, 0, len(files) - kept)
    assert "2 not kept (the limit is reached)" in again.use.sentence()


def test_a_store_without_room_for_one_image(
    opened: Open, files: list[Path], root: Path, plain: dict[Path, bytes]
) -> None:
    found = opened(10)
    found.fill(files)
    assert found.use.left == len(files)
    assert bits(found, files) == plain
    assert shards(root) == []


def test_a_place_that_cannot_be_written(
    opened: Open, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes], passes: list[int]
) -> None:
    root.write_text("a file stands where the directory should be")
    found = opened()
    found.fill(files)
    passes.clear()
    assert bits(found, files) == plain
    assert passes == []
    assert found.complete
    assert len(said) == 1
    assert said[0].startswith(f"image features stay in memory: {root} cannot be written (")


def test_a_disk_that_is_full(
    opened: Open, files: list[Path], root: Path, said: list[str], plain: dict[Path, bytes], passes: list[int]
) -> None:
    found = opened()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # the system refuses to write more to a file
    try:
        found.fill(files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    passes.clear()
    assert bits(found, files) == plain
    assert passes == []
    assert len(said) == 1
    assert "cannot be written (File too large)" in said[0]
    assert [path for path in root.rglob("*") if path.suffix in (".partial", ".safetensors")] == []


@pytest.mark.parametrize("what", ["dtype", "shape"])
def test_what_does_not_fit_goes_to_memory_and_not_into_a_file(
    identity: Identity, root: Path, said: list[str], what: str
) -> None:
    array = features(identity)
    store = Store(root, identity, 10**9, said.append)
    store.put(key(1), array)
    odd = array.astype(mx.bfloat16) if what == "dtype" else array[:-1]
    assert not store.put(key(2), odd)
    store.flush()
    assert mx.array_equal(store.get(key(1)), array)
    assert len(said) == 1
    assert said[0].startswith("image features stay in memory: ")
    assert shards(root) == []


def test_what_killed_processes_left_behind_is_removed(opened: Open, files: list[Path], root: Path) -> None:
    opened().fill(files)
    old, young = (shards(root)[0].with_name(f"{name}.partial") for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    age(old, 7200)
    opened()
    assert not old.exists()
    assert young.exists()


def test_many_shards_share_few_open_files(
    identity: Identity, root: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        fill_one(root, identity, number)
    store = Store(root, identity, 10**9, said.append)
    for number in (*range(40), *range(40)):
        assert mx.array_equal(store.get(key(number)), features(identity, number))
    assert len(store._maps) == 16


def test_a_shard_is_written_whole_or_not_at_all(
    identity: Identity, root: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    store = Store(root, identity, 10**9, said.append)
    store.put(key(1), features(identity))
    store._prepare()
    monkeypatch.setattr(shard_module.Path, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        store.flush()
    assert [path.name for path in store.directory.iterdir()] == ["about.json"]


def test_numbers_are_those_of_numpy_too(identity: Identity, root: Path, said: list[str]) -> None:
    array = features(identity)
    assert shard_module.to_bytes(array) == np.array(array).tobytes()
