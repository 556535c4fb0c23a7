from __future__ import annotations

from pathlib import Path

import pytest

from mlx_medlora.errors import InputError
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.training.settings import TrainSettings


def write(directory: Path, text: str) -> Path:
    path = directory / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_are_the_cards_recipe() -> None:
    settings = TrainSettings()
    assert (settings.epochs, settings.batch_size, settings.accumulate, settings.lr) == (3, 4, 1, 2e-4)
    assert settings.lora == LoraSettings()


def test_lora_takes_its_part() -> None:
    settings = TrainSettings(rank=8, alpha=16, dropout=0.05, target=("k_proj",), rslora=True, lr=1e-3)
    assert settings.lora == LoraSettings(rank=8, alpha=16, dropout=0.05, target=("k_proj",), rslora=True)
    assert type(settings.lora) is LoraSettings


def test_every_setting_has_its_help() -> None:
    for name, field in TrainSettings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs: 5\nlr: 1.0e-3\ntarget: [q_proj, k_proj]\nrslora: true\npatience: 2\n")
    settings = TrainSettings.from_yaml(path)
    assert settings == TrainSettings(epochs=5, lr=1e-3, target=("q_proj", "k_proj"), rslora=True, patience=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1e-3\n", "unknown option 'learning_rate'"),
        ("epochs: 0\n", "epochs: .*greater than 0"),
        ("epochs: 1.5\n", r"epochs: .*\(got 1.5\)"),
        ("schedule: step\n", "schedule: .*'linear', 'cosine' or 'constant'"),
        ("warmup: 1\n", "warmup: .*less than 1"),
        ("lr: -1\nrank: 0\n", "rank: .*; lr: "),
        ("lr: .nan\n", "lr: "),
        ("seed: -1\n", "seed: "),
    ],
)
def test_what_is_wrong_in_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        TrainSettings.from_yaml(path)
    assert str(caught.value).startswith(str(path))
