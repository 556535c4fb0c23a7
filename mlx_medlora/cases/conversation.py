"""A case as a chat, in the form that chat templates of transformers take."""

from __future__ import annotations

from typing import Any

from mlx_medlora.cases.schema import Case

Message = dict[str, Any]


def conversation(case: Case, with_answer: bool) -> list[Message]:
    """System, user and, with `with_answer`, assistant turns; the images come before the user's text."""
    images: list[Message] = [{"type": "image"} for _ in case.image_paths]
    turns: list[Message] = [
        {"role": "system", "content": [_text(case.instruction)]},
        {"role": "user", "content": [*images, _text(case.input)]},
    ]
    if with_answer:
        turns.append({"role": "assistant", "content": [_text(case.output)]})
    return turns


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
