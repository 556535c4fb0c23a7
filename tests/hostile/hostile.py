"""One hostile input: what it is called, how it is made, and what the user reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Hostile:
    """`build` writes the input into an empty directory and returns the command that reads it.

    `says`: texts that the message holds, the file and its place first.
    """

    name: str
    build: Callable[[Path], list[str]]
    says: tuple[str, ...]

    def __str__(self) -> str:
        return self.name
