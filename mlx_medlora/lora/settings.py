"""What shape an adapter has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from mlx_medlora.errors import InputError
from mlx_medlora.settings import StrictModel

ModuleName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Saved = Literal["embed_tokens", "lm_head"]
ALL_LINEAR = "all-linear"


class LoraSettings(StrictModel):
    """LoRA's settings; the defaults are the dataset card's recipe."""

    rank: int = Field(16, gt=0, le=4096, description="Width of the low-rank update.")
    alpha: float = Field(32.0, gt=0, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Share of the update's inputs dropped in training.")
    target: tuple[ModuleName, ...] = Field(
        ("q_proj", "v_proj", "o_proj"),
        description="Linear layers of the language model to adapt; all-linear: every one, SigLIP's too.",
    )
    layers: str = Field(
        "all",
        pattern=r"^(all|last:[1-9][0-9]{0,3})$",
        description="Layers of the language model to adapt: all, or last:K for the last K.",
    )
    vision: bool = Field(False, description="Look for the targets in SigLIP's tower too, and train it.")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA).")
    dora: bool = Field(False, description="Train each layer's magnitude too (DoRA).")
    save_modules: tuple[Saved, ...] = Field(
        (), description="Train and save whole copies of embed_tokens, lm_head or both."
    )

    @field_validator("target", "save_modules", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]

    @field_validator("target", "save_modules")
    @classmethod
    def _named_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a layer is named twice")
        return value

    @field_validator("target")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("name at least one layer, such as q_proj")
        if ALL_LINEAR in value and len(value) > 1:
            raise ValueError(f"{ALL_LINEAR} names every layer: leave the others out")
        return value

    def first_layer(self, count: int) -> int:
        """Index of the first layer that may be adapted, of `count`. Raises InputError where K is too many."""
        if self.layers == "all":
            return 0
        last = int(self.layers.removeprefix("last:"))
        if last > count:
            raise InputError(
                f"--layers {self.layers}: the language model has {count} layers",
                hint=f"Give last:1 to last:{count}, or all.",
            )
        return count - last

    @property
    def adapts_vision(self) -> bool:
        """True where layers of SigLIP's tower may be adapted."""
        return self.vision or self.target == (ALL_LINEAR,)

    @property
    def scale(self) -> float:
        """The factor of the low-rank update. Source of the second form: arXiv 2312.03732."""
        return scale(self.alpha, self.rank, self.rslora)


def scale(alpha: float, rank: int, rslora: bool) -> float:
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilised LoRA."""
    return alpha / (rank**0.5 if rslora else rank)
