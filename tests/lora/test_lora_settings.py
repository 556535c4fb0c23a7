from __future__ import annotations

import pytest
from pydantic import ValidationError

from mlx_medlora.lora.settings import LoraSettings


def test_defaults_are_the_cards_recipe() -> None:
    settings = LoraSettings()
    assert (settings.rank, settings.alpha, settings.dropout) == (16, 32.0, 0.1)
    assert settings.target == ("q_proj", "v_proj", "o_proj")


@pytest.mark.parametrize(("rslora", "scale"), [(False, 2.0), (True, 8.0)])
def test_scale(rslora: bool, scale: float) -> None:
    assert LoraSettings(rank=16, alpha=32, rslora=rslora).scale == scale


def test_target_may_be_written_with_commas() -> None:
    assert LoraSettings.model_validate({"target": "q_proj, v_proj"}).target == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    "values",
    [
        {"rank": 0},
        {"alpha": 0},
        {"dropout": 1},
        {"dropout": -0.1},
        {"target": ()},
        {"target": ("q_proj", "q_proj")},
        {"alpha": float("nan")},
        {"rnak": 8},
    ],
)
def test_nonsense_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LoraSettings.model_validate(values)
