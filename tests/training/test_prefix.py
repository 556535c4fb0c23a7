"""Hidden states below the first trained layer: computed once, kept, and the same training with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.store import Store
from mlx_medlora.gemma.model import Base, Gemma3
from mlx_medlora.gemma.text import TextStack
from mlx_medlora.training import features as features_module
from mlx_medlora.training.batches import collate
from mlx_medlora.training.events import Event, Notice, States
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.images import agree_on_prefix, fill_prefix, look, open_images
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.prefix import Prefix, padded, prefix_bytes
from mlx_medlora.training.prefix_stores import prefix_stores
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import Setup, set_up

Adapted = Callable[[TrainSettings], Base]
KEPT = TrainSettings(rank=2, dropout=0.0, epochs=2, batch_size=2, layers="last:2", prefix_cache=True, lr=2e-4)
PLAIN = KEPT.model_copy(update={"prefix_cache": False})


@pytest.fixture
def named_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of `mixed` are names without files."""
    monkeypatch.setattr(features_module, "sha256", str)


@pytest.mark.usefixtures("named_images")
def test_the_loss_is_that_of_the_whole_stack(
    adapted: Adapted, mixed: list[Example], features: FeatureCache
) -> None:
    model = adapted(PLAIN)
    prefix = Prefix(model, 5, features, lambda length: None)
    batch = collate(mixed, features, model.config, below=prefix)
    assert batch.arrays.features is None
    whole = answer_loss(model, collate(mixed, features, model.config).arrays).item()
    assert answer_loss(model, batch.arrays, first=5).item() == pytest.approx(whole, rel=1e-6)


@pytest.mark.usefixtures("named_images")
def test_only_the_trained_layers_run_once_the_states_are_there(
    adapted: Adapted, mixed: list[Example], features: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = adapted(PLAIN)
    prefix = Prefix(model, 5, features, lambda length: None)
    passes: list[int] = []
    below = TextStack.below

    def count(self: TextStack, *given: object) -> mx.array:
        passes.append(1)
        return below(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(TextStack, "below", count)
    prefix.fill(mixed)
    assert len(passes) == len(mixed)
    collate(mixed, features, model.config, below=prefix)
    assert len(passes) == len(mixed)


def test_the_adapter_is_the_same_to_1e_6_and_a_second_run_reads_what_the_first_kept(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    kept = FeatureSettings(directory=tmp_path / "kept")
    plain = run_training(tiny_medgemma, data, tmp_path / "plain", PLAIN, features=kept).output
    asked: list[str] = []

    def agree(what: str) -> bool:
        asked.append(what)
        return True

    events: list[Event] = []
    watch = {"features": kept, "confirm": agree, "listeners": [events.append]}
    with_states = [
        run_training(tiny_medgemma, data, tmp_path / name, KEPT, **watch).output  # type: ignore[arg-type]
        for name in ("first", "second")
    ]
    wanted = load_file(plain / "adapters.safetensors")
    assert len(wanted) == 2 * 3 * 2, "two layers, three projections, two matrices"
    for place in with_states:
        found = load_file(place / "adapters.safetensors")
        for name, values in wanted.items():
            np.testing.assert_allclose(found[name], values, atol=1e-6)
    first, second = ((place / "adapters.safetensors").read_bytes() for place in with_states)
    assert first == second
    assert len(asked) == 1, "the second run finds all"
    assert "7 rows of hidden states take 0.00 GB in" in asked[0]
    assert str(tmp_path / "kept") in asked[0]
    assert [event for event in events if isinstance(event, States)][-1] == States(7, 7)


@pytest.fixture
def below(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of a row through the frozen layers alone."""
    passes: list[int] = []
    real = TextStack.below

    def count(self: TextStack, *given: Any) -> mx.array:
        if given[0].shape[1] > 1:  # of one token: asked for its dtype, and never computed
            passes.append(1)
        return real(self, *given)

    monkeypatch.setattr(TextStack, "below", count)
    return passes


@pytest.fixture
def tower(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of the vision tower."""
    passes: list[int] = []
    real = Gemma3.image_features

    def count(self: Gemma3, pixels: mx.array) -> mx.array:
        passes.append(1)
        return real(self, pixels)

    monkeypatch.setattr(Gemma3, "image_features", count)
    return passes


def test_a_no_is_taken_before_any_work(
    tiny_medgemma: Path, data: Path, tmp_path: Path, tower: list[int], below: list[int]
) -> None:
    with pytest.raises(InputError, match="were declined"):
        run_training(tiny_medgemma, data, tmp_path / "a", KEPT, confirm=lambda what: False)
    assert not (tmp_path / "a").exists()
    assert (tower, below) == ([], [])


def opened(
    model: Path, data: Path, kept: FeatureSettings, said: list[Event] | None = None
) -> tuple[Setup, Prefix]:
    """A run's states as far as the question, then its image features."""
    setup, heard = set_up(model, data, KEPT), [] if said is None else said
    found = open_images(setup, kept, [heard.append])
    prefix = agree_on_prefix(setup, KEPT, kept, found, [heard.append])
    assert prefix is not None
    look(setup, kept, found=found)
    return setup, prefix


def states(setup: Setup, prefix: Prefix) -> list[bytes]:
    """The bytes of every row's states."""
    rows = [*setup.train, *setup.val]
    return [np.array(prefix.rows([row], padded(len(row)))).tobytes() for row in rows]


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


def test_the_size_is_known_beforehand(tiny_config: object) -> None:
    assert [padded(length) for length in (1, 16, 17)] == [16, 16, 32]
    assert prefix_bytes(tiny_config, [1, 16, 17], mx.bfloat16) == (16 + 16 + 32) * 64 * 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": "all"}, "leaves none"),
        ({"vision": True}, "frozen vision tower"),
        ({"save_modules": ("embed_tokens",)}, "frozen vision tower and embedding"),
        ({"layers": "last:99"}, "the language model has"),
    ],
)
def test_what_training_would_change_is_refused(
    tiny_medgemma: Path, data: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        set_up(tiny_medgemma, data, KEPT.model_copy(update=change))


def test_the_command_asks_before_any_tower_work_and_yes_answers(
    tiny_medgemma: Path, data: Path, tmp_path: Path, tower: list[int]
) -> None:
    from mlx_medlora.cli.app import run

    command = ["train", "--model", str(tiny_medgemma), "--data", str(data), "--output", str(tmp_path / "a")]
    command += ["--layers", "last:1", "--prefix-cache", "--rank", "2", "--epochs", "1"]
    assert run(command) == 2, "nobody to ask"
    assert not (tmp_path / "a").exists()
    assert tower == []
    assert run([*command, "--yes"]) == 0
    settings = json.loads((tmp_path / "a" / "run.json").read_text())["settings"]
    assert (settings["layers"], settings["prefix_cache"]) == ("last:1", True)
