"""`demo`: the whole path on the embedded model and drawn cases, offline, in minutes."""

from __future__ import annotations

import typer

from mlx_medlora.cli.options import Json, Offline, Output, examples
from mlx_medlora.cli.output import out

EXAMPLES = examples("mlx-medlora demo --output demo", "mlx-medlora demo --output demo --json")


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("demo", epilog=EXAMPLES)(demo)


def demo(output: Output, offline: Offline = False, json: Json = False) -> None:
    """Show the whole path on this machine, offline.

    Draws phantom cases, converts the embedded model, trains LoRA on q/v/o, compares before and after.
    Needs no network and no patient data. The model is a toy: it shows the path, not MedGemma's skill.
    """
    out.use_json(json)
    from mlx_medlora.demo import run_demo

    result = run_demo(output, say=out.note)
    out.result(result.model_dump(mode="json"), *result.renderables())
