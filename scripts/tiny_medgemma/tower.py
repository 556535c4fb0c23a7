"""The first stage: tower and projector learn to name modality and finding from pixels alone."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx import nn
from steps import fit

from mlx_medlora.cases.phantoms import MODALITIES, draw
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder

CELLS = [(modality, finding) for modality in MODALITIES for finding in (True, False)]


@dataclass(frozen=True)
class Pictures:
    """Phantoms as the model takes them: pixels (N, 3, H, W); cell (N,) indexes CELLS."""

    pixels: npt.NDArray[np.float16]
    cell: npt.NDArray[np.int64]


def paint(count: int, seed: int, encoder: Encoder) -> Pictures:
    """Draw `count` phantoms, the cells in turn."""
    rng = np.random.default_rng(seed)
    cells = np.arange(count) % len(CELLS)
    pixels = [encoder.pixels([draw(*CELLS[cell], rng).convert("RGB")])[0] for cell in cells]
    return Pictures(np.stack(pixels).astype(np.float16), cells)


class Reader(nn.Module):
    """Tower and projector with a head that is thrown away after this stage."""

    def __init__(self, model: Gemma3) -> None:
        super().__init__()
        self.tower, self.projector = model.vision_tower, model.multi_modal_projector
        self.head = nn.Linear(model.config.text.hidden_size, len(CELLS))

    def __call__(self, pixels: mx.array) -> mx.array:
        """(N, 3, H, W) -> (N, cells): every soft token votes, so that each comes to know the answer."""
        return self.head(self.projector(self.tower(pixels))).mean(axis=1)


def train_tower(model: Gemma3, encoder: Encoder, steps: int, images: int, seed: int) -> float:
    """Train on `images` phantoms; returns the share of 1,000 held-out ones named right (finding or none)."""
    shown, unseen = paint(images, seed, encoder), paint(1000, seed + 1, encoder)
    reader = Reader(model)

    def loss(batch: tuple[mx.array, mx.array]) -> mx.array:
        return nn.losses.cross_entropy(reader(batch[0]), batch[1], reduction="mean")

    fit(reader, loss, _batches(shown, seed), steps, 1e-3, lambda: f"held-out {accuracy(reader, unseen):.3f}")
    return accuracy(reader, unseen)


def _batches(pictures: Pictures, seed: int) -> Iterator[tuple[mx.array, mx.array]]:
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(len(pictures.cell), size=32)
        pixels = pictures.pixels[rows].astype(np.float32)
        pixels = pixels * rng.uniform(0.9, 1.1, (32, 1, 1, 1)) + rng.uniform(-0.1, 0.1, (32, 1, 1, 1))
        flipped = rng.integers(2, size=32).astype(bool)
        pixels[flipped] = pixels[flipped, :, :, ::-1]
        yield mx.array(pixels.astype(np.float32)), mx.array(pictures.cell[rows])


def accuracy(reader: Reader, pictures: Pictures) -> float:
    """Share of pictures whose finding-or-none is named right."""
    named = []
    for start in range(0, len(pictures.cell), 100):
        logits = reader(mx.array(pictures.pixels[start : start + 100].astype(np.float32)))
        named += mx.argmax(logits, axis=-1).tolist()
    return float(np.mean(np.array(named) % 2 == pictures.cell % 2))
