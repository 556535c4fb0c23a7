"""The second and third stages: the text stack goes through the curriculum on frozen features."""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
from lessons import FIRST, SECOND, Lesson, Maker, draw_lessons
from PIL import Image
from steps import fit
from tower import CELLS, Pictures

from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.training.batches import Batch, collate
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.loss import answer_loss

_BLANK = Image.new("RGB", (8, 8))


class Classroom:
    """Makes batches of lessons; an image is any phantom of the lesson's cell."""

    def __init__(self, model: Gemma3, encoder: Encoder, pictures: Pictures, seed: int) -> None:
        self.model, self.encoder = model, encoder
        self.rng = np.random.default_rng(seed)
        self.by_cell = [np.flatnonzero(pictures.cell == cell) for cell in range(len(CELLS))]
        self.cache = FeatureCache()
        for start in range(0, len(pictures.cell), 50):
            found = model.image_features(mx.array(pictures.pixels[start : start + 50].astype(np.float32)))
            kept = np.array(found)
            self.cache.features.update({Path(str(start + i)): mx.array(one) for i, one in enumerate(kept)})

    def example(self, lesson: Lesson) -> Example:
        """A lesson as ids and supervised tokens."""
        images: tuple[Path, ...] = ()
        if lesson.modality is not None:
            cell = CELLS.index((lesson.modality, lesson.finding))
            images = (Path(str(self.rng.choice(self.by_cell[cell]))),)
        turns = [
            {"role": "system", "content": [{"type": "text", "text": lesson.system}]},
            {
                "role": "user",
                "content": [*({"type": "image"} for _ in images), {"type": "text", "text": lesson.question}],
            },
            {"role": "assistant", "content": [{"type": "text", "text": lesson.answer}]},
        ]
        encoded = self.encoder.encode(turns, [_BLANK] * len(images), with_answer=True)
        return Example(encoded.ids, encoded.supervised, images, lesson.system, "lessons")

    def batches(self, makers: tuple[Maker, ...], size: int) -> Iterator[Batch]:
        """Lessons without end."""
        while True:
            yield self.batch(draw_lessons(makers, self.rng, size))

    def batch(self, lessons: list[Lesson]) -> Batch:
        return collate([self.example(lesson) for lesson in lessons], self.cache, self.model.config)

    def right(self, maker: Maker, count: int = 200) -> float:
        """Share of lessons of one kind whose whole answer is the likeliest, token for token."""
        batch = self.batch(draw_lessons((maker,), self.rng, count))
        embedded = self.model.embed(batch.input_ids, batch.features)
        hidden = self.model.hidden(embedded, batch.attention_mask, batch.token_type_ids)
        chosen = mx.argmax(self.model.head(hidden[batch.rows, batch.positions]), axis=-1)
        hits = np.array(chosen == batch.targets)
        wrong_rows = set(np.array(batch.rows)[~hits].tolist())
        return 1 - len(wrong_rows) / count


def train_stack(
    model: Gemma3, room: Classroom, unseen: Classroom, steps: tuple[int, int]
) -> dict[str, float]:
    """Teach FIRST, then SECOND; returns the share of unseen lessons answered right, by kind."""
    model.freeze()
    model.language_model.unfreeze()

    def loss(batch: Batch) -> mx.array:
        return answer_loss(model, batch) / batch.supervised

    def report() -> str:
        return ", ".join(f"{name} {share:.2f}" for name, share in results().items())

    def results() -> dict[str, float]:
        return {maker.__name__: unseen.right(maker) for maker in dict.fromkeys(SECOND)}

    for makers, count in zip((FIRST, SECOND), steps, strict=True):
        print(f"lessons: {', '.join(maker.__name__ for maker in dict.fromkeys(makers))}", flush=True)
        fit(model, loss, room.batches(makers, 32), count, 2e-3, report, every=250)
    model.unfreeze()
    return results()
