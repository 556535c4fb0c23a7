"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="Model directory, hub id, or `tiny-medgemma` (the embedded one).", metavar="MODEL"
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option("--adapter", help="Adapter of `train`, PEFT, mlx-lm or mlx-vlm.", metavar="DIR"),
]
Data = Annotated[Path, typer.Option("--data", help="Dataset directory that `prepare` wrote.", metavar="DIR")]
Output = Annotated[
    Path, typer.Option("--output", help="Where to write; must not exist or be empty.", metavar="DIR")
]


def examples(*lines: str) -> str:
    """Example command lines for the end of a command's --help, their line breaks kept."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
