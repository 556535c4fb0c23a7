"""What shape an adapter has."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from mlx_medlora.settings import StrictModel

ModuleName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class LoraSettings(StrictModel):
    """LoRA's settings; the defaults are the dataset card's recipe."""

    rank: int = Field(16, gt=0, le=4096, description="Width of the low-rank update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the update's inputs dropped in training.")
    target: tuple[ModuleName, ...] = Field(
        ("q_proj", "v_proj", "o_proj"), description="Linear layers of the language model to adapt."
    )
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA).")

    @field_validator("target", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("target")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one layer, such as q_proj")
        if len(set(value)) < len(value):
            raise ValueError("a layer is named twice")
        return value

    @property
    def scale(self) -> float:
        """The factor of the low-rank update. Source of the second form: arXiv 2312.03732."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)
