"""General question-answer rows, text alone: replayed in training, and asked to measure forgetting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, model_validator

from mlx_medlora.cases.conversation import Message
from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.cases.schema import Text, faults
from mlx_medlora.errors import InputError

GENERAL = Path(__file__).resolve().parent.parent / "assets" / "general_medical.jsonl"

_ASKS = ("instruction", "input")
_IMAGES = ("image", "images", "image_file", "image_path")


class Question(BaseModel):
    """One row: `instruction`, `input` or both ask, `output` answers. Other fields are not read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    instruction: str = ""
    input: str = ""
    output: Text

    _line: int = PrivateAttr(default=0)

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, row: Any) -> Any:
        if isinstance(row, dict):
            shown = [name for name in _IMAGES if row.get(name)]
            if shown:
                raise ValueError(f"it has an image ({shown[0]}), and these rows are text alone")
            if not any(isinstance(row.get(name), str) and row[name].strip() for name in _ASKS):
                raise ValueError("it asks nothing: it needs an instruction or an input")
        return row

    @property
    def line(self) -> int:
        """The row's line in its file, from 1."""
        return self._line

    @property
    def asked(self) -> str:
        """What is asked, for comparison: letters and digits of instruction and input, in lower case."""
        return "".join(letter for letter in self.text.lower() if letter.isalnum())

    @property
    def text(self) -> str:
        """The user's turn: instruction and input as Gemma's chat template joins system and user."""
        return "\n\n".join(part.strip() for part in (self.instruction, self.input) if part.strip())

    def conversation(self, with_answer: bool) -> list[Message]:
        """The user's turn and, with `with_answer`, the assistant's, in chat form."""
        turns = [("user", self.text)] + ([("assistant", self.output)] if with_answer else [])
        return [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]


def read_questions(path: Path) -> list[Question]:
    """The rows of a JSON Lines file; a first line with a `license` and no `output` is its licence line.

    Raises InputError, with file and line, for bad JSON, a row that asks or answers nothing, one with an
    image, and a file without rows.
    """
    found = []
    for line, row in read_jsonl(path):
        if line == 1 and isinstance(row, dict) and "license" in row and "output" not in row:
            continue
        found.append(_question(row, path, line))
    if not found:
        raise InputError("there are no question-answer rows", path=path)
    return found


def _question(row: object, path: Path, line: int) -> Question:
    if not isinstance(row, dict):
        raise InputError(f"expected an object, got {type(row).__name__}", path=path, line=line)
    try:
        question = Question.model_validate(row)
    except ValidationError as error:
        raise InputError(faults(error), path=path, line=line) from error
    question._line = line
    return question


def fingerprint(questions: Sequence[Question]) -> str:
    """SHA-256 (hex) over what is asked and answered, in order; the file's place and layout have no part."""
    digest = hashlib.sha256()
    for question in questions:
        row = [question.instruction, question.input, question.output]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
