"""Runs whose image features come from a store, from memory, or are made again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from quick_runs import SETTINGS, weights

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cli.train import validation_accuracy
from mlx_medlora.features.opening import open_features
from mlx_medlora.features.report import FeatureUse
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.tower import parts
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load, load_model
from mlx_medlora.training.dry_run import dry_run
from mlx_medlora.training.events import Event, Features, Notice, Step
from mlx_medlora.training.images import look
from mlx_medlora.training.run import run_training
from mlx_medlora.training.setup import set_up
from mlx_medlora.training.trainer import Trainer


def use_of(events: list[Event]) -> FeatureUse:
    [use] = [event for event in events if isinstance(event, FeatureUse)]
    return use


def spoil(store: Path) -> None:
    [shard] = store.glob("*/*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("memory", FeatureUse(0, 3)),
        ("cold", FeatureUse(0, 3)),
        ("warm", FeatureUse(3, 0)),
        ("half", FeatureUse(1, 2)),
        ("limited", FeatureUse(0, 1, left=2)),
        ("no room", FeatureUse(0, 0, left=3)),
        ("damaged", FeatureUse(0, 0, again=3, why=("damaged",))),
        ("unwritable", FeatureUse(0, 3)),
    ],
)
def test_the_adapter_is_the_same_wherever_features_come_from(
    tiny_medgemma: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    expected: FeatureUse,
) -> None:
    plain = run_training(
        tiny_medgemma, data, tmp_path / "plain", SETTINGS, features=FeatureSettings(memory=True)
    )
    store = tmp_path / "kept"
    limit = {"limited": 9000 / 1e9, "no room": 1e-8}.get(state, 1.0)
    features = FeatureSettings(directory=store, limit=limit, memory=state == "memory")
    if state in ("warm", "damaged"):
        run_training(tiny_medgemma, data, tmp_path / "first", SETTINGS, features=features)
    if state == "half":
        model, processor = load(tiny_medgemma)
        with open_features(model, Encoder(processor, model.config), features, data, print) as found:
            found.fill([data / "images" / "b.png"])
    if state == "damaged":
        spoil(store)
    if state == "unwritable":
        store.write_text("in the way")
    events: list[Event] = []
    towers: list[bool] = []
    update = Trainer.update

    def watched(self: Trainer, *given: Any) -> Step:
        towers.append(self.model.has_tower)  # type: ignore[attr-defined]
        return update(self, *given)

    monkeypatch.setattr(Trainer, "update", watched)
    result = run_training(
        tiny_medgemma, data, tmp_path / "again", SETTINGS, features=features, listeners=[events.append]
    )
    assert weights(tmp_path / "again") == weights(tmp_path / "plain")
    assert result.record.settings == plain.record.settings
    place = None if state == "memory" else str(store)
    assert use_of(events) == replace(expected, place=place)
    assert set(towers) == {expected.left > 0}
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == (state in ("damaged", "unwritable"))
    assert [event for event in events if isinstance(event, Features)][-1] == Features(3, 3)


def test_a_stored_run_needs_no_tower_and_its_memory_goes(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_training(tiny_medgemma, data, tmp_path / "first", SETTINGS)
    monkeypatch.setattr(Gemma3, "image_features", lambda *_: pytest.fail("the tower ran"))
    setup = set_up(tiny_medgemma, data, SETTINGS)
    assert isinstance(setup.model, Gemma3)
    size = sum(array.nbytes for _, array in parts(setup.model))
    before = mx.get_active_memory()
    cache = look(setup, FeatureSettings())
    assert before - mx.get_active_memory() >= size
    assert not setup.model.has_tower
    assert cache.stack([path.resolve() for path in sorted((data / "images").iterdir())]).shape[0] == 3
    record = run_training(
        tiny_medgemma, data, tmp_path / "second", SETTINGS, validate=validation_accuracy
    ).record
    assert record.val_accuracy is not None
    assert weights(tmp_path / "first") == weights(tmp_path / "second")
    assert load_model(tiny_medgemma, tmp_path / "second") is not None


def test_a_trained_tower_stores_nothing(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    chosen = SETTINGS.model_copy(update={"vision": True, "epochs": 1})
    features = FeatureSettings(directory=tmp_path / "kept")
    events: list[Event] = []
    run_training(tiny_medgemma, data, tmp_path / "a", chosen, features=features, listeners=[events.append])
    assert not (tmp_path / "kept").exists()
    assert not any(isinstance(event, (Features, FeatureUse, Notice)) for event in events)


def test_a_dataset_without_images_makes_no_store(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        lines = (data / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (data / f"{split}.jsonl").write_text("".join(line for line in lines if "image_path" not in line))
    features = FeatureSettings(directory=tmp_path / "kept")
    run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, features=features)
    assert not (tmp_path / "kept").exists()


def test_a_store_in_the_dataset_is_no_part_of_it(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    before = [Dataset.open(data).fingerprint(split) for split in ("train", "val")]
    features = FeatureSettings(directory=data / ".features")
    first = run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, features=features)
    second = run_training(tiny_medgemma, data, tmp_path / "b", SETTINGS, features=features)
    assert (data / ".features").is_dir()
    assert [Dataset.open(data).fingerprint(split) for split in ("train", "val")] == before
    assert first.record.data == second.record.data
    dry_run(tiny_medgemma, data, SETTINGS)
