"""One step of training that writes nothing, and shows what the loss is taken on."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from time import perf_counter

import mlx.core as mx

from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.buckets import Buckets
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache, ImageSource, PixelSource
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import recomputes, set_up
from mlx_medlora.training.shapes import row_shapes
from mlx_medlora.training.trainer import Trainer


class Token(StrictModel):
    """`count` equal tokens in a row, more than one only for an image's soft tokens."""

    id: int
    text: str
    supervised: bool
    count: int = 1


class DryRun(StrictModel):
    """What one step on the longest rows came to, and one row's tokens. Memory in bytes."""

    train_rows: int
    val_rows: int
    longest_row: int
    replay_rows: int
    updates: int
    modules: int
    trainable_parameters: int
    loss: float
    gradient_norm: float
    seconds: float
    peak_memory: int
    case_id: str
    where: str
    tokens: list[Token]

    @property
    def supervised_text(self) -> str:
        """The text that the shown row's loss is taken on."""
        return "".join(token.text for token in self.tokens if token.supervised)


def dry_run(
    model: str | Path,
    data: str | Path,
    settings: TrainSettings | None = None,
    *,
    dtype: mx.Dtype | None = None,
) -> DryRun:
    """Load, tokenise and run one update on the longest rows; nothing is written.

    Raises InputError and MedloraError as training itself would.
    """
    settings = settings or TrainSettings()
    mx.reset_peak_memory()
    setup = set_up(model, data, settings, dtype)
    lengths = [len(example) for example in setup.train]
    batches = Buckets(row_shapes(setup.train), settings.batch_size).in_order()[: settings.accumulate]
    window = [[setup.train[index] for index in batch] for batch in batches]
    looked_at = [example for batch in window for example in batch]
    features: ImageSource = PixelSource(setup.encoder)
    if not setup.trains_vision:
        features = FeatureCache.for_examples(looked_at, setup.model, setup.encoder)
        if isinstance(setup.model, Gemma3):
            setup.model.drop_tower()  # as `train` does once all features are held
    trainer = Trainer(
        setup.model,
        setup.train,
        setup.val,
        features,
        settings,
        save=lambda kind: None,
        recompute=recomputes(setup, settings),
    )
    setup.model.train()
    start = perf_counter()
    step = trainer.update(window, epoch=1)
    shown = setup.train[0]
    return DryRun(
        train_rows=len(setup.train),
        val_rows=len(setup.val),
        longest_row=max(lengths),
        replay_rows=trainer.plan().replay_rows,
        updates=trainer.total,
        modules=len(setup.modules),
        trainable_parameters=trainer.plan().trainable,
        loss=step.loss,
        gradient_norm=step.gradient_norm,
        seconds=round(perf_counter() - start, 3),
        peak_memory=step.peak_memory,
        case_id=shown.case_id,
        where=shown.where,
        tokens=tokens(shown, setup.encoder, setup.model.config.image_token_id),
    )


def tokens(example: Example, encoder: Encoder, image_token_id: int) -> list[Token]:
    """An example's tokens in order, each run of soft tokens as one entry with its count."""
    # The first token of a row is never predicted, whatever its flag.
    flags = [False, *(bool(flag) for flag in example.supervised[1:])]
    shown: list[Token] = []
    runs = groupby(zip(map(int, example.ids), flags, strict=True))
    for (token, supervised), run in runs:
        count = len(list(run))
        piece = str(encoder.tokenizer.convert_ids_to_tokens(token)).replace("▁", " ")
        if token == image_token_id:
            shown.append(Token(id=token, text=piece, supervised=supervised, count=count))
        else:
            shown += [Token(id=token, text=piece, supervised=supervised)] * count
    return shown
