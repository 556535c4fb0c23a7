"""Hidden states below the first trained layer: computed once, kept, and the same training with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from prefixes import KEPT, PLAIN
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.text import TextStack
from mlx_medlora.training import features as features_module
from mlx_medlora.training.batches import collate
from mlx_medlora.training.events import Event, States
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.loss import answer_loss
from mlx_medlora.training.prefix import Prefix, padded, prefix_bytes
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import set_up

Adapted = Callable[[TrainSettings], Base]


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


def test_a_no_is_taken_before_any_work(
    tiny_medgemma: Path, data: Path, tmp_path: Path, tower: list[int], below: list[int]
) -> None:
    with pytest.raises(InputError, match="were declined"):
        run_training(tiny_medgemma, data, tmp_path / "a", KEPT, confirm=lambda what: False)
    assert not (tmp_path / "a").exists()
    assert (tower, below) == ([], [])


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
