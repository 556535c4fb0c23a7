"""Training's settings: the one source of each default, its help and its check.

The command line's flags and the YAML keys are these names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.settings import validate_yaml

Schedule = Literal["linear", "cosine", "constant"]
Preset = Literal["google-notebook"]

# Google's MedGemma fine-tuning notebook as it runs, its two slips included: rows with two <bos>, and a mask
# that leaves prompt and image markers supervised.
PRESETS: dict[str, dict[str, Any]] = {
    "google-notebook": {
        "rank": 16,
        "alpha": 16.0,
        "dropout": 0.05,
        "target": ("all-linear",),
        "save_modules": ("lm_head", "embed_tokens"),
        "epochs": 1,
        "batch_size": 4,
        "accumulate": 4,
        "lr": 2e-4,
        "schedule": "linear",
        "warmup": 0.03,
        "weight_decay": 0.0,
        "clip": 0.3,
        "supervise": "row",
        "double_bos": True,
    }
}


class TrainSettings(LoraSettings):
    """How an adapter is trained; the defaults are the dataset card's recipe."""

    epochs: int = Field(3, gt=0, description="Passes over the training split.")
    batch_size: int = Field(4, gt=0, le=1_000_000, description="Rows in one forward pass.")
    accumulate: int = Field(1, gt=0, description="Batches whose gradients make one update.")
    lr: float = Field(2e-4, gt=0, description="Highest learning rate.")
    schedule: Schedule = Field("linear", description="How the rate falls after warm-up.")
    warmup: float = Field(0.03, ge=0, lt=1, description="Share of all updates in which the rate rises.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay.")
    clip: float = Field(1.0, ge=0, description="Largest norm of a gradient; 0 never clips.")
    grad_checkpoint: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Compute each layer a second time instead of keeping it; auto: where memory is short.",
    )
    prefix_cache: bool = Field(
        False, description="With --layers last:K: keep what enters the first trained layer, computed once."
    )
    shards: int | None = Field(
        None,
        gt=0,
        description="Shares in which a batch is computed, for the same bits on any number of ranks that "
        "divides it; by default as many as there are ranks when the run begins.",
    )
    patience: int | None = Field(
        None, gt=0, description="Stop after so many epochs without a lower validation loss."
    )
    max_length: int | None = Field(
        None, gt=0, description="Most tokens in a row, if fewer than the model's context."
    )
    supervise: Literal["answer", "row"] = Field(
        "answer", description="What the loss is taken on; row: prompt and image markers too."
    )
    double_bos: bool = Field(False, description="Begin each row with two <bos>, as Google's notebook does.")
    replay: str | None = Field(
        None,
        description="JSONL file of general question-answer rows (instruction, input, output) to train on "
        "beside the cases, against forgetting.",
    )
    replay_share: float = Field(0.2, gt=0, lt=1, description="With --replay: their share of an epoch's rows.")
    seed: int = Field(0, ge=0, lt=2**32, description="Same seed, same adapter, byte for byte.")
    checkpoint_every: float = Field(
        5.0, ge=0, description="Minutes between checkpoints; each epoch ends with one too."
    )
    keep: int = Field(
        3,
        gt=0,
        description="Checkpoints kept while a run is under way; of several one is the last validated.",
    )

    @field_validator("grad_checkpoint", mode="before")
    @classmethod
    def _on_or_off(cls, value: Any) -> Any:
        """YAML reads the words on and off as true and false."""
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value

    @property
    def lora(self) -> LoraSettings:
        """The part that shapes the adapter."""
        return LoraSettings(**self.model_dump(include=set(LoraSettings.model_fields)))

    @classmethod
    def from_yaml(cls, path: str | Path) -> TrainSettings:
        """Read settings from a YAML mapping. Raises InputError naming each unknown key and wrong value."""
        return validate_yaml(cls, Path(path))[0]
