"""`convert`: a hub id or a directory becomes an MLX directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mlx_medlora.cli.options import Json, Offline, examples
from mlx_medlora.cli.output import out

EXAMPLES = examples(
    "mlx-medlora convert google/medgemma-4b-it models/medgemma-4b --bits 4",
    "mlx-medlora convert downloads/medgemma-4b-it models/medgemma-4b-bf16",
    "mlx-medlora convert google/medgemma-4b-it models/medgemma-4b --offline",
    "mlx-medlora convert tiny-medgemma models/tiny --dtype float32",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("convert", epilog=EXAMPLES)(convert)


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Hub id, model directory, or `tiny-medgemma`.")
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUTPUT", help="Where to write; must not exist or be empty.")
    ],
    bits: Annotated[Literal[4, 8] | None, typer.Option(help="Quantise the text stack; left out: no.")] = None,
    group_size: Annotated[Literal[32, 64, 128], typer.Option(help="Weights that share one scale.")] = 64,
    dtype: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Of everything that is not quantised.")
    ] = "bfloat16",
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Make an MLX directory from MedGemma's weights.

    The vision tower and the projector are never quantised. The directory is complete or absent.
    """
    out.use_json(json)
    from mlx_medlora.gemma.convert import convert as convert_weights
    from mlx_medlora.gemma.manifest import trained_on
    from mlx_medlora.lora.provenance import Provenance

    with out.progress("converting") as step:
        report = convert_weights(source, output, bits=bits, group_size=group_size, dtype=dtype, progress=step)
    out.result(report.model_dump(mode="json"), str(report), f"Wrote {output}")
    if warning := Provenance(others=trained_on(output)).warning:
        out.warning(warning)
