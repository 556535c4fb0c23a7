"""Everything that the rungs share: one checkpoint loaded by both sides, and the rows they read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.adapter import Adapter, AdapterConfig, BaseModelId, apply, refuse_other_base
from mlx_medlora.lora.formats import read_any
from mlx_medlora.lora.layers import bind
from mlx_medlora.lora.layout import resolve
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.parity import ours, reference
from mlx_medlora.parity.inputs import Batch, Row, collate, reference_pixels
from mlx_medlora.parity.results import Array
from mlx_medlora.training.features import ImageSource

_NOISE = 0.05


@dataclass
class Sides:
    """Both sides of a comparison. Each rung past 2 gives both the reference's ids, pixels and features."""

    directory: Path
    config: ModelConfig
    processor: Any
    rows: list[Row]
    adapter: Adapter

    @cached_property
    def base(self) -> Base:
        """Our model in fp32, without the adapter."""
        return load_base(self.directory, mx.float32)

    @cached_property
    def reference(self) -> Any:
        """Transformers' model."""
        return reference.load(self.directory, text_only=self.config.text_only)

    @cached_property
    def encoder(self) -> Encoder:
        """Our encoder."""
        return Encoder(self.processor, self.config)

    @cached_property
    def pixels(self) -> Array | None:
        """(N, 3, H, W) of all rows, by transformers; None without images."""
        return reference_pixels(self.rows, self.processor)

    @cached_property
    def features(self) -> Array | None:
        """(N, T, D) of all rows, by transformers; None without images."""
        return None if self.pixels is None else reference.features(self.reference, self.pixels)

    @property
    def trains_tower(self) -> bool:
        """True where the adapter reaches into SigLIP's tower."""
        return any(name.startswith(names.TOWER) for name in self.adapter.config.modules)

    def batch(self, rows: list[Row] | None = None, *, left: bool = False, prompts: bool = False) -> Batch:
        """A batch of all rows, or of some; their images are found by their place among all."""
        chosen = self.rows if rows is None else rows
        places = self.places(chosen)
        pixels = self.pixels[places] if self.pixels is not None and places else None
        return collate(chosen, self.config, pixels, left=left, prompts=prompts)

    def places(self, rows: list[Row]) -> list[int]:
        """Where the images of `rows` stand among the images of all rows."""
        starts = np.cumsum([0, *(len(row.images) for row in self.rows)])
        index = {id(row): int(start) for row, start in zip(self.rows, starts[:-1], strict=True)}
        return [index[id(row)] + place for row in rows for place in range(len(row.images))]

    def given(self, rows: list[Row] | None = None) -> Array | None:
        """The reference's features of `rows`; None where they have no image."""
        places = self.places(self.rows if rows is None else rows)
        return self.features[places] if self.features is not None and places else None

    def adapted(self) -> Base:
        """Our model in fp32 with the adapter, freshly loaded, dropout 0."""
        model = load_base(self.directory, mx.float32)
        apply(model, without_dropout(self.adapter))
        return model

    def peft(self) -> Any:
        """PEFT's model with the adapter, freshly loaded."""
        fresh = reference.load(self.directory, text_only=self.config.text_only)
        return reference.with_adapter(fresh, self.adapter)

    def images(self) -> ImageSource:
        """The rows' images as training takes them."""
        return ours.source(self.pixels, self.features, trained_tower=self.trains_tower)


def without_dropout(adapter: Adapter) -> Adapter:
    """The same adapter with dropout 0."""
    return Adapter(adapter.config.model_copy(update={"dropout": 0.0}), adapter.tensors)


def open_config(directory: Path) -> ModelConfig:
    """The configuration of a checkpoint that transformers can read too. Raises InputError otherwise."""
    config = read_config(directory)
    if config.quantization is not None:
        raise InputError(
            "is quantised, which transformers cannot read",
            path=directory,
            hint="Give the unquantised model; rung 11 packs it in memory.",
        )
    return config


def get_adapter(directory: Path, config: ModelConfig, adapter: Path | None) -> Adapter:
    """The adapter given, or one on q, v and o with noise in every matrix, the same for the same model."""
    model = load_base(directory, mx.float32)
    if adapter is not None:
        found = read_any(adapter, model)
        mine = fingerprint(directory, config)
        refuse_other_base(found.config.base, mine, source_fingerprint(directory), adapter)
        return found
    settings = LoraSettings(rank=4, alpha=8, dropout=0.0)
    layout = resolve(model, settings)
    bind(model, layout)
    trained: dict[str, mx.array] = dict(tree_flatten(model.trainable_parameters()))
    tensors = {
        name: np.array(array + mx.random.normal(array.shape, key=mx.random.key(index)) * _NOISE)
        for index, (name, array) in enumerate(trained.items())
    }
    base = BaseModelId(id=directory.name, fingerprint=fingerprint(directory, config))
    return Adapter(AdapterConfig(**layout.model_dump(), base=base), tensors)
