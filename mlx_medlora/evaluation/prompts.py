"""Cases become prompts: ids up to the assistant's turn, and each image's features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.features.source import see
from mlx_medlora.files import sha256
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt

_ANY = Image.new("RGB", (1, 1))  # the encoder counts images, it does not look at them


class PromptMaker:
    """Makes prompts batch by batch, and has the features of each distinct image once.

    An image's features, (T, D), are dropped after the last case that shows it: memory stays near one
    batch however many cases there are. They come from `features`, or else from the vision tower. `room`
    tokens are left free after the prompt.
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
        self.given: Mapping[Path, mx.array] = {} if features is None else features
        self.features: dict[Path, mx.array] = {}
        self._digests: dict[Path, str] = {}
        if model.config.text_only:
            self._refuse_images(cases)

    def outlines(self, cases: Sequence[Case]) -> list[Prompt]:
        """The prompts without features, to plan with; images are named by their bytes.

        Raises InputError naming a case that the model cannot take.
        """
        return [Prompt(self._ids(case), images=self._names(case)) for case in cases]

    def prompts(self, cases: Sequence[Case], outlines: Sequence[Prompt] | None = None) -> list[Prompt]:
        """One prompt for each case, from its outline where that is known.

        Raises InputError naming a case that the model cannot take.
        """
        files = [self.dataset.image_files(case) for case in cases]
        for case, own in zip(cases, files, strict=True):
            self._look(case, own)
        made = [
            replace(outline, features=mx.concatenate([self.features[file] for file in group]))
            if group
            else outline
            for outline, group in zip(outlines or self.outlines(cases), files, strict=True)
        ]
        self._forget(files)
        return made

    def _names(self, case: Case) -> tuple[str, ...] | None:
        files = self.dataset.image_files(case)
        for file in files:
            if file not in self._digests:
                if not file.is_file():
                    return None  # opening it will say so
                self._digests[file] = sha256(file)
        return tuple(self._digests[file] for file in files)

    def _ids(self, case: Case) -> npt.NDArray[np.int32]:
        turns = conversation(case, with_answer=False)
        try:
            ids = self.encoder.encode(turns, [_ANY] * len(case.image_paths), with_answer=False).ids
        except InputError as error:
            raise self.dataset.wrong(case, f"case {case.id!r}: {error}", error.hint) from error
        if len(ids) > self.limit:
            raise self.dataset.wrong(
                case,
                f"case {case.id!r} takes {len(ids)} tokens, there is room for {self.limit}",
                "Shorten the case's text or show fewer images.",
            )
        return ids

    def _look(self, case: Case, files: Sequence[Path]) -> None:
        """Have the features of a case's images, those of earlier cases as they are."""
        for file in files:
            if file in self.features:
                continue
            try:
                known = file in self.given
                look = self.model.image_features
                self.features[file] = self.given[file] if known else see(look, self.encoder, file)
            except InputError as error:
                raise self.dataset.wrong(case, f"case {case.id!r}: {error}", error.hint) from error

    def _forget(self, used: Sequence[tuple[Path, ...]]) -> None:
        self.uses_left.subtract(file for group in used for file in group)
        for file in [file for file in self.features if self.uses_left[file] <= 0]:
            del self.features[file]

    def _refuse_images(self, cases: Sequence[Case]) -> None:
        for case in cases:
            if case.image_paths:
                raise self.dataset.wrong(
                    case,
                    f"case {case.id!r} has an image, and this is a text-only model",
                    "Use a model with a vision tower, such as medgemma-4b-it.",
                )
