"""The lengths of a dataset's rows, without opening its images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.settings import StrictModel
from mlx_medlora.training.replay import read_replay
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import RowShape

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

CHARACTERS = 4.2  # a token, where no tokenizer is at hand; MedGemma's own gives 4.6 on lora_training
_FRAME = 16  # tokens of the chat's frame: <bos>, turns, newlines around an image
_MOST = 2000  # rows that are tokenised; of a larger dataset the longest ones, and others evenly


class Lengths(StrictModel):
    """A dataset as a plan sees it. `tokenised` rows are exact, the others told from their characters.

    `images` counts distinct images of both splits.
    """

    train: tuple[RowShape, ...]
    val: tuple[RowShape, ...]
    images: int
    tokenised: int

    @property
    def exact(self) -> bool:
        """True where every row was tokenised."""
        return self.tokenised == len(self.train) + len(self.val)

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(row.tokens for row in (*self.train, *self.val))


def read_lengths(
    data: str | Path, config: ModelConfig, settings: TrainSettings, encoder: Encoder | None
) -> Lengths:
    """Lengths of the rows of `data`; without an `encoder` all are told from their characters.

    Raises InputError for a dataset that is none, has no training split, or whose rows do not fit the model.
    """
    dataset = Dataset.open(data)
    splits = {split: dataset.cases(split) for split in ("train", "val") if split in dataset.splits()}
    if "train" not in splits:
        raise InputError("the dataset has no training split (train.jsonl)", path=dataset.root)
    cases = [case for split in splits.values() for case in split]
    exact = _tokenised(dataset, cases, encoder)
    rate = _characters_a_token(exact, cases, config)
    shapes = [exact[i] if i in exact else _estimated(case, config, rate) for i, case in enumerate(cases)]
    rows = [_as_trained(shape, settings, config) for shape in shapes]
    files = {file for case in cases for file in dataset.image_files(case)}
    count = len(splits["train"])
    general = _replayed(settings, count, config, rate, encoder)
    return Lengths(
        train=(*rows[:count], *general),
        val=tuple(rows[count:]),
        images=len(files),
        tokenised=len(exact) + (0 if encoder is None else len(general)),
    )


def _replayed(
    settings: TrainSettings, cases: int, config: ModelConfig, rate: float, encoder: Encoder | None
) -> list[RowShape]:
    """Shapes of the general rows that an epoch of so many `cases` replays."""
    replay = read_replay(settings, cases)
    if replay is None:
        return []
    if encoder is not None:
        found = replay.examples(encoder, config, settings)
        return [RowShape(len(example), example.targets, 0) for example in found]
    texts = [(len(row.text) + len(row.output), len(row.output)) for row in replay.rows]
    shapes = [RowShape(round(whole / rate) + _FRAME, round(answer / rate) + 1, 0) for whole, answer in texts]
    return [_as_trained(shape, settings, config) for shape in shapes]


def _tokenised(dataset: Dataset, cases: Sequence[Case], encoder: Encoder | None) -> dict[int, RowShape]:
    """Exact shapes by index: of all rows, or of the longest ones and a sample."""
    if encoder is None:
        return {}
    chosen = range(len(cases))
    if len(cases) > _MOST:
        longest = sorted(chosen, key=lambda i: _characters(cases[i]) + 1000 * len(cases[i].image_paths))
        chosen = sorted({*longest[-_MOST // 10 :], *chosen[:: -(-len(cases) // _MOST)]})  # type: ignore[assignment]
    return {index: _shape(dataset, cases[index], encoder) for index in chosen}


def _shape(dataset: Dataset, case: Case, encoder: Encoder) -> RowShape:
    stand_ins = [Image.new("RGB", (1, 1))] * len(case.image_paths)  # only their number reaches the text
    try:
        encoded = encoder.encode(conversation(case, with_answer=True), stand_ins, with_answer=True)
    except InputError as error:
        raise dataset.wrong(case, f"case {case.id!r}: {error}", error.hint) from error
    return RowShape(len(encoded.ids), int(encoded.supervised[1:].sum()), len(case.image_paths))


def _characters(case: Case) -> int:
    return len(case.instruction) + len(case.input) + len(case.output)


def _characters_a_token(exact: dict[int, RowShape], cases: Sequence[Case], config: ModelConfig) -> float:
    tokens = sum(s.tokens - _FRAME - s.images * config.mm_tokens_per_image for s in exact.values())
    return sum(_characters(cases[i]) for i in exact) / tokens if tokens > 0 else CHARACTERS


def _estimated(case: Case, config: ModelConfig, rate: float) -> RowShape:
    images = len(case.image_paths)
    text = round(_characters(case) / rate) + _FRAME
    return RowShape(text + images * config.mm_tokens_per_image, round(len(case.output) / rate) + 1, images)


def _as_trained(row: RowShape, settings: TrainSettings, config: ModelConfig) -> RowShape:
    tokens = row.tokens + settings.double_bos
    if settings.supervise == "answer":
        return RowShape(tokens, row.targets, row.images)
    return RowShape(tokens, tokens - 1 - row.images * config.mm_tokens_per_image, row.images)
