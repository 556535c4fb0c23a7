"""`heatmaps`: a run's modalities against the gates, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, examples
from mlx_medlora.cli.output import out

EXAMPLES = examples(
    "mlx-medlora heatmaps runs/first",
    "mlx-medlora heatmaps runs/first --output figures",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("heatmaps", epilog=EXAMPLES)(heatmaps)


def heatmaps(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `eval` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write; by default RUN/heatmaps.", metavar="DIR"),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Draw modality by metric and modality by error type, held against the gates.

    Writes modality_metric and modality_error_type as SVG and PNG. Undecided cells are hatched.
    """
    out.use_json(json)
    from mlx_medlora.evaluation.runs import read_heatmaps
    from mlx_medlora.files import plain_os_errors
    from mlx_medlora.report.heatmaps import write_heatmaps

    place = run / "heatmaps" if output is None else output
    found = read_heatmaps(run)
    with plain_os_errors(place):
        files = write_heatmaps(place, found)
    out.result({"output": str(place), "files": [str(file) for file in files]}, f"Wrote {place}")
