"""What a generated answer says, read strictly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

from mlx_medlora.cases.card import Label

LABELS: tuple[Label, Label] = ("ERROR", "CORRECT")

# The word alone, or followed by a break: "ERROR-free" and "CORRECT in part" are no verdicts.
_VERDICT = re.compile(r"\s*(ERROR|CORRECT)(?:[ \t]*[-–—:.](?=\s|$)|[ \t]*(?:\n|$))")

_THINKING_TOKENS = ("<unused94>", "<unused95>")


def parse_answer(text: str) -> Label | None:
    """The verdict that `text` begins with, or None where it begins with none.

    Only leading white space is forgiven; case, spelling and decoration are not.
    """
    match = _VERDICT.match(text)
    return cast(Label, match.group(1)) if match else None


def thinking_ids(tokenizer: Any) -> tuple[int, int] | None:
    """Ids that open and close MedGemma's thinking (100 and 101), None for a tokenizer without them."""
    vocabulary = tokenizer.get_vocab()
    start, end = (vocabulary.get(token) for token in _THINKING_TOKENS)
    return None if start is None or end is None else (start, end)


def without_thinking(ids: Sequence[int], markers: tuple[int, int] | None) -> list[int]:
    """Drop every span from the opening to the closing marker; a span cut short drops the rest."""
    if markers is None:
        return list(ids)
    start, end = markers
    kept: list[int] = []
    thinking = False
    for token in ids:
        if token == start:
            thinking = True
        elif token == end:
            thinking = False
        elif not thinking:
            kept.append(token)
    return kept
