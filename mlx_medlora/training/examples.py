"""Cases become examples: token ids, and which of them the loss is taken on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoded, Encoder


@dataclass(frozen=True)
class Example:
    """One tokenised case.

    ids (L,) int32; supervised (L,) bool, True on the answer's tokens, `<end_of_turn>` included; images in
    reading order; `where` is the row's place, as `train.jsonl:7`; `replay` marks a general row, no case.
    """

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]
    images: tuple[Path, ...]
    case_id: str
    where: str
    replay: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def targets(self) -> int:
        """How many tokens the loss is taken on; the first token of a row is never predicted."""
        return int(self.supervised[1:].sum())


def build_examples(
    cases: Sequence[Case],
    dataset: Dataset,
    encoder: Encoder,
    config: ModelConfig,
    max_length: int | None,
    *,
    supervise: Literal["answer", "row"] = "answer",
    double_bos: bool = False,
) -> list[Example]:
    """Tokenise `cases` in order; their images are opened, and so checked, on the way.

    With `supervise` "row" the loss is taken on the prompt too, on all but soft tokens; `double_bos` puts
    a second `<bos>` before each row. Raises InputError, with the row's file and line, for a row that is
    longer than the model's context or `max_length`, one whose images did not get all their soft tokens, an
    image before a text-only model, and one without an answer.
    """
    opened = lru_cache(maxsize=4)(open_image)  # cases that share an image often stand together
    limit = config.text.max_position_embeddings
    limit = limit if max_length is None else min(limit, max_length)
    examples = []
    for case in cases:
        files = dataset.image_files(case)
        if files and config.text_only:
            raise dataset.wrong(case, "the case has an image, and this is a text-only model")
        try:
            images = [opened(file) for file in files]
            encoded = encoder.encode(conversation(case, with_answer=True), images, with_answer=True)
        except InputError as error:
            raise dataset.wrong(case, f"case {case.id!r}: {error}", error.hint) from error
        ids, supervised = as_trained(encoded, config, supervise, double_bos)
        example = Example(ids, supervised, files, case.id, case.where)
        _check(example, case, dataset, config, limit)
        examples.append(example)
    return examples


def as_trained(
    encoded: Encoded, config: ModelConfig, supervise: Literal["answer", "row"], double_bos: bool
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Ids and supervised tokens of a row, (L,) each, as `supervise` and `double_bos` change them."""
    ids, supervised = encoded.ids, encoded.supervised
    if supervise == "row":
        supervised = ids != config.image_token_id
    if double_bos:
        ids, supervised = np.insert(ids, 0, config.bos_token_id), np.insert(supervised, 0, False)
    return ids, supervised


def _check(example: Example, case: Case, dataset: Dataset, config: ModelConfig, limit: int) -> None:
    """Raise InputError for an example that the model would see only a part of."""
    if len(example) > limit:
        raise dataset.wrong(
            case,
            f"case {case.id!r} takes {len(example)} tokens; the limit is {limit}",
            "Shorten its text or show fewer images: cutting it off would cut its answer.",
        )
    soft = int((example.ids == config.image_token_id).sum())
    wanted = len(example.images) * config.mm_tokens_per_image
    if soft != wanted:
        raise dataset.wrong(
            case,
            f"case {case.id!r} has {soft} image soft tokens, {wanted} for its {len(example.images)} image(s) "
            "were expected",
            "Check that its text holds no image marker, and that the processor is this model's.",
        )
    if example.targets == 0:
        raise dataset.wrong(case, f"case {case.id!r} has no answer to learn from")
