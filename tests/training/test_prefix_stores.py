"""Stored hidden states: whose they are, what happens at a limit, on a failing disk, and among ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from prefixes import KEPT, PLAIN, opened, states
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.store import Store
from mlx_medlora.training.events import Event, Notice
from mlx_medlora.training.images import agree_on_prefix, fill_prefix, look, open_images
from mlx_medlora.training.prefix import Prefix, prefix_bytes
from mlx_medlora.training.prefix_stores import prefix_stores
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.run import run_training
from mlx_medlora.training.setup import set_up


def test_another_image_processor_computes_anew(
    tiny_medgemma: Path, data: Path, tmp_path: Path, below: list[int]
) -> None:
    other = Path(shutil.copytree(tiny_medgemma, tmp_path / "other"))
    file = other / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.4, 0.5, 0.6]}))
    kept = FeatureSettings(directory=tmp_path / "kept")
    fill_prefix(opened(tiny_medgemma, data, kept)[1], set_up(tiny_medgemma, data, KEPT))
    below.clear()
    setup, prefix = opened(other, data, kept)
    fill_prefix(prefix, setup)
    assert len(below) == 7
    setup, fresh = opened(other, data, FeatureSettings(directory=tmp_path / "fresh"))
    fill_prefix(fresh, setup)
    assert states(setup, prefix) == states(setup, fresh)
    old_setup, old = opened(tiny_medgemma, data, kept)
    assert states(old_setup, old) != states(setup, fresh)


def test_an_image_that_changes_before_its_turn_spoils_no_store(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    """Rows are named when their states are asked for, before any image's features are computed."""
    kept = FeatureSettings(directory=tmp_path / "kept")
    setup = set_up(tiny_medgemma, data, KEPT)
    found = open_images(setup, kept)
    assert agree_on_prefix(setup, KEPT, kept, found) is not None
    images = data / "images"
    original = (images / "a.png").read_bytes()
    shutil.copyfile(images / "b.png", images / "a.png")
    with pytest.raises(InputError, match=r"a\.png: the image has changed"):
        look(setup, kept, found=found)
    (images / "a.png").write_bytes(original)
    setup, prefix = opened(tiny_medgemma, data, kept)
    fill_prefix(prefix, setup)
    setup, fresh = opened(tiny_medgemma, data, FeatureSettings(directory=tmp_path / "fresh"))
    fill_prefix(fresh, setup)
    assert states(setup, prefix) == states(setup, fresh)


def test_weights_of_several_dtypes_are_stored_and_found(
    tiny_medgemma: Path, data: Path, tmp_path: Path, below: list[int]
) -> None:
    """Norms in fp32 among bf16 matrices, as PEFT's preparation for k-bit training leaves them."""
    model = Path(shutil.copytree(tiny_medgemma, tmp_path / "model"))
    [file] = model.glob("*.safetensors")
    dtypes = {name: mx.float32 if "norm" in name else mx.bfloat16 for name in mx.load(str(file))}
    weights = {name: array.astype(dtypes[name]) for name, array in mx.load(str(file)).items()}
    mx.eval(weights)
    mx.save_safetensors(str(file), weights, metadata={"format": "pt"})
    (model / "mlx_medlora.json").unlink(missing_ok=True)
    kept = FeatureSettings(directory=tmp_path / "kept")
    said: list[Event] = []
    found = []
    for passes in (7, 0):
        below.clear()
        setup, prefix = opened(model, data, kept, said)
        fill_prefix(prefix, setup)
        assert len(below) == passes
        assert (setup.model.dtype, prefix.dtype) == (mx.float32, mx.bfloat16)
        found.append([np.array(prefix.rows([row], len(row)).astype(mx.float32)) for row in setup.train])
    assert notices(said) == []
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_byte_that_the_fingerprint_does_not_sample_counts(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    setup = set_up(tiny_medgemma, data, KEPT)
    kept = FeatureSettings(directory=tmp_path / "kept")

    def digest() -> str:
        store = prefix_stores(setup.model, 5, "same", kept, data, print)(16)
        assert store is not None
        return store.identity.digest

    before = digest()
    assert digest() == before
    setup.model.origin = None  # nothing remembers what was digested
    assert digest() == before
    weight = setup.model.text.layers[4].mlp.down_proj.weight
    weight[3, 200] = weight[3, 200] + 1
    assert digest() != before


def test_at_the_limit_what_is_stored_stays_and_the_rest_is_computed_each_epoch(
    tiny_medgemma: Path, data: Path, tmp_path: Path, below: list[int], tower: list[int]
) -> None:
    plain = run_training(tiny_medgemma, data, tmp_path / "plain", PLAIN).output
    images = tmp_path / "kept"
    setup = set_up(tiny_medgemma, data, KEPT)
    look(setup, FeatureSettings(directory=images))
    seen = {path: path.read_bytes() for path in images.glob("*/*.safetensors")}
    need = prefix_bytes(setup.model.config, map(len, [*setup.train, *setup.val]), setup.model.dtype)
    limit = sum(map(len, seen.values())) + 0.3 * need
    tight = FeatureSettings(directory=images, limit=limit / 1e9)
    wanted = load_file(plain / "adapters.safetensors")
    stored: list[Path] = []
    for name in ("first", "second"):
        below.clear()
        tower.clear()
        said: list[Event] = []
        output = run_training(
            tiny_medgemma, data, tmp_path / name, KEPT, features=tight, listeners=[said.append]
        ).output
        found = load_file(output / "adapters.safetensors")
        for tensor, values in wanted.items():
            np.testing.assert_allclose(found[tensor], values, atol=1e-6)
        [left] = [int(text.split()[3]) for text in notices(said) if "no room left" in text]
        assert 0 < left < 7
        new = 7 - left if name == "first" else 0
        passes = len(below)
        setup, prefix = opened(tiny_medgemma, data, tight)
        beyond = len(prefix.missing(setup.train)), len(prefix.missing(setup.val))
        assert sum(beyond) == left
        # validation has one round more, before the first epoch; stored rows are computed in the first run
        assert passes == new + beyond[0] * KEPT.epochs + beyond[1] * (KEPT.epochs + 1)
        assert tower == []
        files = sorted(images.glob("*/*.safetensors"))
        assert sum(path.stat().st_size for path in files) <= limit
        assert set(seen) <= set(files)
        assert stored in ([], files), "nothing makes way"
        stored = files


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_one_store_at_a_time_holds_what_is_not_written(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = FeatureSettings(directory=tmp_path / "kept")
    setup, prefix = opened(tiny_medgemma, data, kept)
    pending: list[int] = []
    put = Store.put

    def count(self: Store, key: bytes, array: mx.array) -> bool:
        done = put(self, key, array)
        pending.append(sum(store.pending for store in prefix._stores.values() if store is not None))
        return done

    monkeypatch.setattr(Store, "put", count)
    fill_prefix(prefix, setup)
    assert len(prefix._stores) > 1, "rows of several lengths"
    assert max(pending) == 1


def test_a_disk_that_fails_is_said_once_and_memory_takes_over_up_to_its_cap(
    tiny_medgemma: Path, data: Path, tmp_path: Path, below: list[int]
) -> None:
    kept = FeatureSettings(directory=tmp_path / "kept")
    kept.place(data).write_text("a file stands where the directory should be")
    said: list[Event] = []
    setup, prefix = opened(tiny_medgemma, data, kept, said)
    fill_prefix(prefix, setup)
    own = [text for text in notices(said) if text.startswith("hidden states stay in memory")]
    assert len(own) == 1
    assert len(below) == 7
    states(setup, prefix)
    assert len(below) == 7
    examples = [*setup.train, *setup.val]
    small = prefix_bytes(setup.model.config, [max(map(len, examples))], setup.model.dtype)
    capped = Prefix(setup.model, prefix.first, prefix.images, lambda length: None, memory=small)
    fill_prefix(capped, setup)
    assert capped.left == 6


def test_two_ranks_on_one_store_compute_each_row_once(
    tiny_medgemma: Path, data: Path, tmp_path: Path, below: list[int]
) -> None:
    kept = FeatureSettings(directory=tmp_path / "kept")
    (setup, one), (_, two) = (opened(tiny_medgemma, data, kept) for _ in range(2))

    class Two(Ranks):
        """The first of two ranks; while it waits for the other, that does its share."""

        def __init__(self) -> None:
            super().__init__()
            self.size, self.waits = 2, 0

        def any(self, flag: bool) -> bool:
            self.waits += 1
            if self.waits == 2:
                two.fill([*setup.train, *setup.val][1::2])
            return flag

    ranks = Two()
    fill_prefix(one, setup, ranks)
    two.refresh()
    fill_prefix(two, setup)
    assert ranks.waits == 2
    assert len(below) == 7
    assert states(setup, one) == states(setup, two)
    assert len(below) == 7
    nothing = Prefix(setup.model, one.first, one.images, lambda length: None)
    below.clear()
    alone = Two()
    alone.any = lambda flag: flag  # type: ignore[method-assign]
    fill_prefix(nothing, setup, alone)
    assert len(below) == 7, "no share where nothing is on disk"
