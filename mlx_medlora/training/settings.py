"""Training's settings: the one source of each default, its help and its check.

The command line's flags and the YAML keys are these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.settings import validate_yaml

Schedule = Literal["linear", "cosine", "constant"]


class TrainSettings(LoraSettings):
    """How an adapter is trained; the defaults are the dataset card's recipe."""

    epochs: int = Field(3, gt=0, description="Passes over the training split.")
    batch_size: int = Field(4, gt=0, description="Rows in one forward pass.")
    accumulate: int = Field(1, gt=0, description="Batches whose gradients make one update.")
    lr: float = Field(2e-4, gt=0, description="Highest learning rate.")
    schedule: Schedule = Field("linear", description="How the rate falls after warm-up.")
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of all updates in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay.")
    clip: float = Field(1.0, ge=0, description="Largest norm of a gradient; 0 never clips.")
    patience: int | None = Field(
        None, gt=0, description="Stop after so many epochs without a lower validation loss."
    )
    max_length: int | None = Field(
        None, gt=0, description="Most tokens in a row, if fewer than the model's context."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Same seed, same adapter, byte for byte.")

    @property
    def lora(self) -> LoraSettings:
        """The part that shapes the adapter."""
        return LoraSettings(**self.model_dump(include=set(LoraSettings.model_fields)))

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainSettings:
        """Read settings from a YAML mapping. Raises InputError naming each unknown key and wrong value."""
        return validate_yaml(cls, Path(path))[0]
