"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora import network, privacy
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.settings import validate

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else there.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", help="Model directory, hub id, or `tiny-medgemma` (the embedded one).", metavar="MODEL"
    ),
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="First compare every file of the model with its hash, as `convert` wrote it."
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


def _show_cases(wanted: bool) -> bool:
    privacy.show_cases(wanted)
    return wanted


VerboseCases = Annotated[
    bool,
    typer.Option(
        "--verbose-cases",
        callback=_show_cases,
        help="Let messages quote case text, and unexpected errors say all they know.",
    ),
]


def _stay_offline(wanted: bool) -> bool:
    network.forbid(wanted)
    return wanted


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_stay_offline,
        help=f"Download nothing: a hub id must be in the hub's cache. {network.OFFLINE}=1 does the same.",
    ),
]

IgnorePoint = Annotated[
    bool,
    typer.Option("--ignore-operating-point", help="Go without the threshold that `calibrate` chose."),
]

_FIELDS = FeatureSettings.model_fields
FeaturesAt = Annotated[
    Path | None, typer.Option("--features", help=_FIELDS["directory"].description, metavar="DIR")
]
FeaturesLimit = Annotated[
    float | None,
    typer.Option(
        "--features-limit",
        help=f"{_FIELDS['limit'].description} [default: {_FIELDS['limit'].default:g}]",
        metavar="GB",
    ),
]
NoFeatures = Annotated[bool, typer.Option("--no-features", help=_FIELDS["memory"].description)]


def feature_settings(directory: Path | None, limit: float | None, memory_only: bool) -> FeatureSettings:
    """The three flags as settings. Raises InputError where they contradict each other or are out of range."""
    if memory_only and not (directory is None and limit is None):
        raise InputError(
            "--no-features keeps image features in memory only",
            hint="Leave --features and --features-limit out, or leave --no-features out.",
        )
    given = {"directory": directory, "limit": limit, "memory": memory_only or None}
    return validate(FeatureSettings, {name: value for name, value in given.items() if value is not None})


def verify_model(model: str, wanted: bool) -> None:
    """With `wanted`, compare the model's files with their hashes. Raises InputError naming one that differs.

    Sizes are compared whenever a model is found, without this.
    """
    if not wanted:
        return
    from mlx_medlora.gemma.hub import resolve
    from mlx_medlora.gemma.manifest import verify

    directory = resolve(model)
    with out.progress("verifying") as step:
        count = verify(directory, step)
    out.note(f"{count} files of {directory} are as they were written")


def examples(*lines: str) -> str:
    """Example command lines for the end of a command's --help, their line breaks kept."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
