"""Text and images become what the model takes: transformers' processor, and which tokens are supervised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import companions
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.templates import MAX_BYTES
from mlx_medlora.textfiles import read_text

END_OF_TURN = "<end_of_turn>"


def load_processor(directory: Path) -> Any:
    """Transformers' `Gemma3Processor` of a checkpoint directory; the tokenizer alone for text-only models.

    The image processor is the one that computes with PIL, by name: with torchvision installed another
    would be taken, which resizes differently. Raises InputError where a file is absent or damaged, names code
    to run, or does not fit config.json, and for a chat template that fails or does not end.
    """
    config = read_config(directory)
    _need(directory, "tokenizer_config.json")
    _need(
        directory, "tokenizer.json", "tokenizer.model"
    )  # without them transformers' has no words, and no fault
    companions.refuse_odd_files(directory)
    import transformers

    transformers.logging.set_verbosity_error()
    with companions.readable(directory / "tokenizer.json"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    companions.refuse_odd_rules(tokenizer, directory)
    template = _chat_template(directory, tokenizer)
    tokenizer.chat_template = template
    companions.try_template(tokenizer, config, directory)
    if config.text_only:
        return tokenizer
    _need(directory, "preprocessor_config.json", "processor_config.json")
    with companions.readable(directory / "preprocessor_config.json"):
        images = transformers.Gemma3ImageProcessorPil.from_pretrained(directory, local_files_only=True)
        companions.refuse_odd_images(images, config, directory)
        return transformers.Gemma3Processor(
            images, tokenizer, chat_template=template, image_seq_length=config.mm_tokens_per_image
        )


def _need(directory: Path, *names: str) -> None:
    """Raise InputError unless one of `names` is in `directory`."""
    if not any((directory / name).is_file() for name in names):
        raise InputError(
            f"no {' or '.join(names)} here, so text and images cannot be prepared for this model",
            path=directory,
            hint="Copy the tokenizer and processor files from the model's source.",
        )


def _chat_template(directory: Path, tokenizer: Any) -> str:
    """The chat template: its own file, or the tokenizer's. Raises InputError where there is none."""
    file = directory / companions.TEMPLATE
    if file.is_file():
        return read_text(file, MAX_BYTES)
    if isinstance(tokenizer.chat_template, str):
        return tokenizer.chat_template
    raise InputError(
        "the model has no chat template (chat_template.jinja), so it is not an instruction-tuned one",
        path=directory,
        hint="Use an -it model, or copy its chat_template.jinja here.",
    )


@dataclass(frozen=True)
class Encoded:
    """One conversation: ids (L,) int32; supervised (L,) bool, True on the answer and its `<end_of_turn>`."""

    ids: npt.NDArray[np.int32]
    supervised: npt.NDArray[np.bool_]


class Encoder:
    """Turns conversations and images into arrays with a processor (or a text-only model's tokenizer)."""

    def __init__(self, processor: Any, config: ModelConfig) -> None:
        self.processor, self.config = processor, config
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.end_of_turn = self.tokenizer.convert_tokens_to_ids(END_OF_TURN)
        self._control = [token for token in self.tokenizer.all_special_tokens if token.startswith("<")]
        self._control += ["<start_of_turn>", END_OF_TURN]
        self._render = companions.renderer(self.tokenizer)

    def encode(
        self, conversation: list[dict[str, Any]], images: Sequence[Image.Image], *, with_answer: bool
    ) -> Encoded:
        """Tokenise a conversation in chat form, each image written out as its soft tokens.

        With `with_answer` the last turn is the assistant's, and the row ends with its `<end_of_turn>`;
        without, the row ends where the assistant is to begin.
        Raises InputError where images and their places do not match, or the text holds control tokens.
        """
        self._check(conversation, len(images))
        asked = conversation[:-1] if with_answer else conversation
        prompt = self._ids(asked, prompt=True)
        if not with_answer:
            return Encoded(prompt, np.zeros(len(prompt), np.bool_))
        whole = self._ids(conversation, prompt=False)
        if not np.array_equal(whole[: len(prompt)], prompt):
            raise InputError("the answer's first characters merge with the prompt into one token")
        ends = np.flatnonzero(whole == self.end_of_turn)
        ids = whole[: ends[-1] + 1] if len(ends) and ends[-1] >= len(prompt) else whole
        return Encoded(ids, np.arange(len(ids)) >= len(prompt))

    def pixels(self, images: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """(N, 3, H, W) pixel values of RGB images, resized and normalised as the model was trained."""
        found = self.processor.image_processor(list(images), return_tensors="np")["pixel_values"]
        return np.asarray(found, np.float32)

    def _ids(self, conversation: list[dict[str, Any]], *, prompt: bool) -> npt.NDArray[np.int32]:
        text = self._render(conversation, prompt=prompt)
        if not self.config.text_only:
            # what Gemma3Processor does to the text, without resizing the images a second time
            text = text.replace(self.processor.boi_token, self.processor.full_image_sequence)
        ids = np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int32)
        if len(ids) and ids.max() >= self.config.text.vocab_size:
            raise InputError(
                f"the tokenizer gives the token {ids.max()}, the model has {self.config.text.vocab_size}",
                hint="Take the tokenizer's files from the source of the model's weights.",
            )
        return ids

    def _check(self, conversation: list[dict[str, Any]], images: int) -> None:
        pieces = [piece for turn in conversation for piece in turn["content"]]
        places = sum(piece["type"] == "image" for piece in pieces)
        if places != images:
            raise InputError(f"the conversation has places for {places} image(s); {images} were given")
        if places and self.config.text_only:
            raise InputError("this is a text-only model: it cannot look at images")
        for piece in pieces:
            for token in self._control:
                if token in piece.get("text", ""):
                    raise InputError(
                        f"the text holds the model's control token {token!r}",
                        hint="Remove it: the model would take it for the end of a turn or for an image.",
                    )
