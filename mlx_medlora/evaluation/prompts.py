"""Cases become prompts: ids up to the assistant's turn, and each image's features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
from PIL import Image

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt
from mlx_medlora.gemma.vision import at_once


class PromptMaker:
    """Makes prompts batch by batch, and runs the vision tower once for each distinct image.

    An image's features, (T, D), are dropped after the last case that shows it: memory stays near one
    batch however many cases there are. Those in `features` are taken as they are. `room` tokens are
    left free after the prompt.
    """

    def __init__(
        self,
        model: Base,
        encoder: Encoder,
        dataset: Dataset,
        cases: Sequence[Case],
        *,
        room: int = 0,
        features: Mapping[Path, mx.array] | None = None,
    ) -> None:
        self.model, self.encoder, self.dataset = model, encoder, dataset
        self.limit = model.config.text.max_position_embeddings - room
        self.uses_left = Counter(file for case in cases for file in dataset.image_files(case))
        self.features: dict[Path, mx.array] = dict(features or {})
        if model.config.text_only:
            self._refuse_images(cases)

    def prompts(self, cases: Sequence[Case]) -> list[Prompt]:
        """One prompt for each case. Raises InputError naming a case that the model cannot take."""
        files = [self.dataset.image_files(case) for case in cases]
        images = {
            file: self._open(case, file) for case, own in zip(cases, files, strict=True) for file in own
        }
        self._look(images)
        made = [
            self._prompt(case, group, [images[file] for file in group])
            for case, group in zip(cases, files, strict=True)
        ]
        self._forget(files)
        return made

    def _open(self, case: Case, file: Path) -> Image.Image:
        try:
            return open_image(file)
        except InputError as error:
            raise InputError(f"{case.where}: case {case.id!r}: {error}", hint=error.hint) from error

    def _prompt(self, case: Case, files: tuple[Path, ...], images: list[Image.Image]) -> Prompt:
        turns = conversation(case, with_answer=False)
        try:
            ids = self.encoder.encode(turns, images, with_answer=False).ids
        except InputError as error:
            raise InputError(f"{case.where}: case {case.id!r}: {error}", hint=error.hint) from error
        if len(ids) > self.limit:
            raise InputError(
                f"{case.where}: case {case.id!r} takes {len(ids)} tokens, there is room for {self.limit}",
                hint="Shorten the case's text or show fewer images.",
            )
        return Prompt(ids, mx.concatenate([self.features[file] for file in files]) if files else None)

    def _look(self, images: Mapping[Path, Image.Image]) -> None:
        """Run the frozen tower on those of `images` that have no features yet."""
        new = [file for file in images if file not in self.features]
        size = at_once(self.model.config.vision)
        for start in range(0, len(new), size):
            some = new[start : start + size]
            pixels = self.encoder.pixels([images[file] for file in some])  # (N, 3, H, W)
            found = [mx.contiguous(one) for one in self.model.image_features(mx.array(pixels))]  # N x (T, D)
            mx.eval(found)
            self.features.update(zip(some, found, strict=True))

    def _forget(self, used: Sequence[tuple[Path, ...]]) -> None:
        self.uses_left.subtract(file for group in used for file in group)
        for file in [file for file in self.features if self.uses_left[file] <= 0]:
            del self.features[file]

    def _refuse_images(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if case.image_paths:
                raise InputError(
                    f"{case.where}: case {case.id!r} has an image, and this is a text-only model",
                    hint="Use a model with a vision tower, such as medgemma-4b-it.",
                )
