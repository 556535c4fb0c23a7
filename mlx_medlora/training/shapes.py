"""What a plan knows of a run before anything loads: its rows' lengths, and what is adapted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.counts import text_shapes, vision_shapes
from mlx_medlora.gemma.model import build
from mlx_medlora.lora.layout import expected_tensors, resolve
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.training.examples import Example


class RowShape(NamedTuple):
    """One row: all its tokens (soft tokens included), those the loss is taken on, and its images."""

    tokens: int
    targets: int
    images: int


class StepShape(NamedTuple):
    """What is computed at once: `rows` padded to `length` tokens, `targets` and `images` in all.

    `parts`: in how many such steps the gradients of one batch are computed.
    """

    rows: int
    length: int
    targets: int
    images: int
    parts: int = 1

    @property
    def positions(self) -> int:
        """Rows times length: what most activations are as long as."""
        return self.rows * self.length


@dataclass(frozen=True)
class AdapterShape:
    """Which matrices are adapted, by layer, in text stack and tower, and how much is trained.

    `parameters` counts everything trained; `saved` those of whole modules (embedding, head).
    """

    text: dict[int, tuple[str, ...]]
    tower: dict[int, tuple[str, ...]]
    rank: int
    parameters: int
    saved: int

    @property
    def first(self) -> int:
        """The lowest decoder layer that the backward pass reaches."""
        return 0 if self.tower or self.saved else min(self.text, default=0)


def row_shapes(examples: Sequence[Example]) -> list[RowShape]:
    """The shapes of tokenised rows."""
    return [RowShape(len(example), example.targets, len(example.images)) for example in examples]


def adapter_shape(config: ModelConfig, settings: LoraSettings) -> AdapterShape:
    """What `settings` would adapt on a model of `config`; its weights are named, and never computed.

    Raises InputError where a target names no layer.
    """
    model = build(config)
    layout = resolve(model, settings)
    tensors = expected_tensors(model, layout)
    text: dict[int, list[str]] = {}
    tower: dict[int, list[str]] = {}
    for module in layout.modules:
        place = tower if module.startswith(names.TOWER) else text
        parts = module.split(".")
        place.setdefault(int(parts[parts.index("layers") + 1]), []).append(parts[-1])
    saved = len(settings.save_modules) * config.text.vocab_size * config.text.hidden_size
    return AdapterShape(
        text={layer: tuple(kinds) for layer, kinds in text.items()},
        tower={layer: tuple(kinds) for layer, kinds in tower.items()},
        rank=settings.rank,
        parameters=sum(prod(shape) for shape in tensors.values()),
        saved=saved,
    )


def lora_widths(config: ModelConfig, kinds: Sequence[str], *, tower: bool = False) -> list[tuple[int, int]]:
    """(in, out) of the adapted matrices of one layer."""
    if tower:
        assert config.vision is not None
        shapes = vision_shapes(config.vision)
    else:
        shapes = text_shapes(config.text)
    return [shapes[kind] for kind in kinds]
