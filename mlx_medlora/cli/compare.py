"""`compare`: runs on the same cases, in one table and one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, examples
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

EXAMPLES = examples(
    "mlx-medlora compare runs/base runs/tuned",
    "mlx-medlora compare runs/base runs/rank8 runs/rank16 runs/rank32 --output runs/comparison.json",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("compare", epilog=EXAMPLES)(compare)


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Directories that `eval` wrote, the first one the base."),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File to write; by default comparison.json in the last run's directory.", metavar="FILE"
        ),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Compare runs on the same cases, each with the first.

    McNemar's exact test with the cases won and lost, and the difference of accuracies with its interval.
    Warns of runs whose adapter, epoch or threshold was chosen on these very cases. Runs on other cases are
    refused. Writes comparison.json. Research tool, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.evaluation.comparing import COMPARISON, compare, write_comparison
    from mlx_medlora.evaluation.runs import read_run
    from mlx_medlora.evaluation.tables import comparison_table

    path = output or runs[-1] / COMPARISON
    _refuse_other_file(path)
    found = compare([read_run(run) for run in runs])
    write_comparison(path, found)
    for one in found.runs:
        for warning in one.warnings:
            out.warning(f"{one.name}: {warning}")
    lists = [
        f"{pair.second} {word}: {', '.join(ids)}"
        for pair in found.pairs
        for word, ids in (("won", pair.won), ("lost", pair.lost))
        if ids
    ]
    sentences = [pair.sentence for pair in found.pairs]
    shown = {**found.model_dump(mode="json"), "output": str(path)}
    out.result(shown, comparison_table(found), *lists, *sentences, found.notice, f"Wrote {path}")


def _refuse_other_file(path: Path) -> None:
    """Raise InputError where `path` is a file that `compare` did not write: it would be lost."""
    from pydantic import ValidationError

    from mlx_medlora.evaluation.results.comparison import Comparison
    from mlx_medlora.textfiles import read_text

    if not path.exists() or path.is_dir():
        return
    try:
        Comparison.model_validate_json(read_text(path))
    except (InputError, ValidationError) as error:
        hint = "Give --output another name, or remove this file first."
        raise InputError("exists and is no comparison", path=path, hint=hint) from error
