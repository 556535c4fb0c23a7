"""`parity`: the ladder against transformers + PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_medlora.cli.options import Adapter, Json, Offline, VerboseCases, examples
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError, MedloraError

if TYPE_CHECKING:
    from rich.table import Table

    from mlx_medlora.parity.ladder import Certificate

EXAMPLES = examples(
    "mlx-medlora parity",
    "mlx-medlora parity --model downloads/medgemma-4b-it --adapter adapters/mine --output certificate.json",
    "mlx-medlora parity --model downloads/medgemma-4b-it --data my_dataset --cases 8 --json",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("parity", epilog=EXAMPLES)(parity)


def parity(
    model: Annotated[
        str, typer.Option(help="Unquantised model: directory or hub id.", metavar="HF_DIR")
    ] = "tiny-medgemma",
    adapter: Adapter = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset to compare on; left out: drawn phantoms.", metavar="DIR")
    ] = None,
    cases: Annotated[int, typer.Option(help="Rows to compare on.")] = 4,
    output: Annotated[Path | None, typer.Option(help="File for the certificate.", metavar="FILE")] = None,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    json: Json = False,
) -> None:
    """Prove this toolkit against transformers + PEFT, rung by rung, in fp32.

    Pixels, tokens, features, logits, loss, gradients, fifty updates, adapters, fused weights,
    generation, quantised weights. A rung that fails gives exit status 1.
    """
    out.use_json(json)
    from mlx_medlora.files import write_json
    from mlx_medlora.parity.ladder import RUNGS, climb, open_sides

    if output is not None and output.exists():
        raise InputError("is there already", path=output, hint="Choose another file, or remove this one.")
    sides = open_sides(model, adapter=adapter, data=data, cases=cases)
    done = 0
    with out.progress("climbing") as step:

        def tell(_: str) -> None:
            nonlocal done
            step(done, len(RUNGS))
            done += 1

        found = climb(sides, told=tell, adapter="noise on q, v and o" if adapter is None else adapter.name)
    if output is not None:
        write_json(output, found.model_dump(mode="json"))
    out.result(found.model_dump(mode="json"), _table(found), *_words(found, output))
    if not found.passed:
        where = "" if found.first_parting is None else f"; the two sides part at {found.first_parting}"
        raise MedloraError(f"the ladder failed: {', '.join(found.failures)}{where}")


def _table(found: Certificate) -> Table:
    from rich.table import Table

    table = Table(title=f"{found.model} against transformers {found.versions['transformers']}")
    for column in ("", "rung", "error", "tolerance", "their noise", "", "on"):
        table.add_column(column)
    for rung in found.rungs:
        figures = [_figure(value) for value in (rung.error, rung.tolerance, rung.noise)]
        table.add_row(str(rung.number), rung.name, *figures, rung.status, rung.detail)
    for probe in found.probes:
        table.add_row("", probe.name, _figure(probe.value), "", "", probe.status, probe.detail)
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}" if value else "0"


def _words(found: Certificate, output: Path | None) -> list[str]:
    verdict = "Every rung holds." if found.passed else f"Failed: {', '.join(found.failures)}."
    return [verdict] if output is None else [verdict, f"Wrote {output}"]
