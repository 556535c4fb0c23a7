"""Where features are kept, and when they are not."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from stores import Pixels

import mlx_medlora
from mlx_medlora.features.opening import open_features
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.features.tower import parts
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.settings import LoraSettings

PLACE = FeatureSettings.place


def test_the_default_is_beside_the_dataset(
    tiny_model: Gemma3,
    encoder: Pixels,
    files: list[Path],
    tmp_path: Path,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FeatureSettings, "place", PLACE)  # tests have places of their own
    with open_features(tiny_model, encoder, FeatureSettings(), tmp_path, said.append) as found:
        assert found[files[0]].shape == (4, 64)
    assert len(list((tmp_path / ".features").glob("*/*.safetensors"))) == 1
    assert (tmp_path / ".features").stat().st_mode & 0o777 == 0o700
    assert said == []


def test_a_place_of_ones_own(
    tiny_model: Gemma3, encoder: Pixels, files: list[Path], tmp_path: Path, said: list[str]
) -> None:
    settings = FeatureSettings(directory=tmp_path / "deep" / "down")
    with open_features(tiny_model, encoder, settings, tmp_path / "data", said.append) as found:
        assert found[files[0]] is not None
    assert (tmp_path / "deep" / "down" / "README").is_file()
    assert not (tmp_path / "data").exists()


def test_no_store_no_files(
    tiny_model: Gemma3, encoder: Pixels, files: list[Path], tmp_path: Path, said: list[str]
) -> None:
    for settings, images in ((FeatureSettings(memory=True), True), (FeatureSettings(), False)):
        place = settings.place(tmp_path)
        with open_features(tiny_model, encoder, settings, tmp_path, said.append, images=images) as found:
            assert found.store is None
            assert found[files[0]] is not None
        assert not place.exists()
    assert said == []


@pytest.mark.parametrize("place", ["package", "site-packages"])
def test_an_installed_dataset_is_left_alone(
    tiny_model: Gemma3, encoder: Pixels, tmp_path: Path, said: list[str], place: str
) -> None:
    data = Path(mlx_medlora.__file__).parent / "assets"
    if place == "site-packages":
        data = tmp_path / "site-packages" / "cases"
    assert open_features(tiny_model, encoder, FeatureSettings(), data, said.append).store is None
    assert said == [
        "image features stay in memory: "
        f"{data} is part of an installed package; give --features DIR to keep them"
    ]
    chosen = FeatureSettings(directory=tmp_path / "store")
    assert open_features(tiny_model, encoder, chosen, data, said.append).store is not None


def test_an_adapter_in_the_tower_keeps_features_to_itself(
    tiny_model: Gemma3, encoder: Pixels, tmp_path: Path, said: list[str]
) -> None:
    attach(tiny_model, LoraSettings(rank=2, target=("q_proj",)))
    assert open_features(tiny_model, encoder, FeatureSettings(), tmp_path, said.append).store is not None
    other = Gemma3(tiny_model.config)
    attach(other, LoraSettings(rank=2, target=("all-linear",)))
    assert open_features(other, encoder, FeatureSettings(), tmp_path, said.append).store is None
    assert said == ["image features stay in memory: the adapter changes the vision tower"]


def test_the_tower_can_be_dropped(tiny_model: Gemma3) -> None:
    mx.eval(tiny_model.parameters())
    pixels = mx.zeros((1, 3, 28, 28))
    ids = mx.array([[2, 5, 9]])
    before, held = tiny_model(ids), mx.get_active_memory()
    size = sum(array.nbytes for _, array in parts(tiny_model))
    tiny_model.drop_tower()
    tiny_model.drop_tower()
    assert held - mx.get_active_memory() >= size
    assert mx.array_equal(tiny_model(ids), before)
    with pytest.raises(ValueError, match="the vision tower was dropped from this model"):
        tiny_model.image_features(pixels)
