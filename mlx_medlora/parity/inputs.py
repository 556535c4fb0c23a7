"""Cases as both sides read them: our encoder's ids and pixels beside transformers' processor's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.phantoms import MODALITIES, draw
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.gemma.processor import Encoder

Ids = npt.NDArray[np.int64]
Batch = dict[str, npt.NDArray[Any]]
Turns = list[dict[str, Any]]
ANSWERS = (
    "CORRECT - Treatment matches imaging findings",
    "ERROR - No finding",
    "ERROR - Overtreatment, the image does not support this therapy",
)


@dataclass(frozen=True)
class Row:
    """One conversation with its answer. ids (L,) and supervised (L,) are transformers' own."""

    turns: Turns
    images: tuple[Image.Image, ...]
    ids: Ids
    supervised: npt.NDArray[np.bool_]
    prompt: int

    @property
    def name(self) -> str:
        """What kind of row it is."""
        return f"{len(self.images)} image(s), {len(self.ids)} tokens"


def generated(count: int, config: ModelConfig) -> list[tuple[Turns, tuple[Image.Image, ...]]]:
    """Conversations about phantoms: one image, two, none in turn; none for text-only models."""
    made = []
    for index in range(count):
        rng = np.random.default_rng([7, index])
        shown = 0 if config.text_only else (1, 2, 0, 1)[index % 4]
        images = [
            draw(MODALITIES[(index + n) % 4], bool((index + n) % 2), rng).convert("RGB") for n in range(shown)
        ]
        pieces: list[dict[str, Any]] = [{"type": "image"} for _ in images]
        text = "Patient, 56. Clear lungs. " + "Antibiotics for a week. " * (1 + index % 3) + "Is it right?"
        user = {"role": "user", "content": [*pieces, {"type": "text", "text": text}]}
        answer = {"role": "assistant", "content": [{"type": "text", "text": ANSWERS[index % 3]}]}
        made.append(([user, answer], tuple(images)))
    return made


def from_dataset(data: Path, count: int) -> list[tuple[Turns, tuple[Image.Image, ...]]]:
    """Conversations of the first cases of a dataset. Raises InputError as the dataset's readers do."""
    dataset = Dataset.open(data)
    cases = dataset.cases(dataset.splits()[0])[:count]
    return [
        (conversation(case, with_answer=True), tuple(open_image(file) for file in dataset.image_files(case)))
        for case in cases
    ]


def reference_rows(
    conversations: list[tuple[Turns, tuple[Image.Image, ...]]], processor: Any, config: ModelConfig
) -> list[Row]:
    """Tokenise with transformers alone: the chat template, then everything after the prompt is supervised."""
    rows = []
    for turns, images in conversations:
        if images and config.text_only:
            raise InputError("a text-only model cannot be compared on cases with images")
        whole = _template(processor, turns, images, prompt=False)
        prompt = len(_template(processor, turns[:-1], images, prompt=True))
        tokenizer = getattr(processor, "tokenizer", processor)
        end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
        ids = whole[: int(np.flatnonzero(whole == end)[-1]) + 1]
        rows.append(Row(turns, images, ids, np.arange(len(ids)) >= prompt, prompt))
    return rows


def _template(processor: Any, turns: Turns, images: tuple[Image.Image, ...], *, prompt: bool) -> Ids:
    """Ids of a conversation by `apply_chat_template` with the images inside it."""
    left = list(images)
    filled = [
        turn
        | {
            "content": [
                {"type": "image", "image": left.pop(0)} if piece["type"] == "image" else piece
                for piece in turn["content"]
            ]
        }
        for turn in turns
    ]
    found = processor.apply_chat_template(
        filled, tokenize=True, add_generation_prompt=prompt, return_dict=True, return_tensors="np"
    )
    return np.asarray(found["input_ids"][0], np.int64)


def reference_pixels(rows: list[Row], processor: Any) -> npt.NDArray[np.float32] | None:
    """(N, 3, H, W) of all rows' images by transformers' image processor; None without images."""
    images = [image for row in rows for image in row.images]
    if not images:
        return None
    return np.asarray(processor.image_processor(images, return_tensors="np")["pixel_values"], np.float32)


def collate(
    rows: list[Row],
    config: ModelConfig,
    pixels: npt.NDArray[Any] | None,
    *,
    left: bool = False,
    prompts: bool = False,
) -> Batch:
    """Pad rows, or with `prompts` their prompts alone, into transformers' arguments."""
    cut = [row.ids[: row.prompt] if prompts else row.ids for row in rows]
    length = max(map(len, cut))
    ids = np.full((len(rows), length), config.pad_token_id, np.int64)
    mask, supervised = np.zeros_like(ids), np.zeros(ids.shape, np.bool_)
    for index, (row, own) in enumerate(zip(rows, cut, strict=True)):
        place = slice(length - len(own), None) if left else slice(0, len(own))
        ids[index, place], mask[index, place] = own, 1
        supervised[index, place] = row.supervised[: len(own)]
    batch: Batch = {"input_ids": ids, "attention_mask": mask, "supervised": supervised}
    if not config.text_only:
        batch["token_type_ids"] = ((ids == config.image_token_id) & (mask == 1)).astype(np.int64)
    if pixels is not None and len(pixels):
        batch["pixel_values"] = pixels
    return batch


def our_encoding(rows: list[Row], encoder: Encoder) -> list[tuple[Ids, npt.NDArray[np.bool_]]]:
    """What our encoder makes of the same conversations."""
    found = [encoder.encode(row.turns, row.images, with_answer=True) for row in rows]
    return [(one.ids.astype(np.int64), one.supervised) for one in found]
