"""`bench`: how fast this machine trains and scores, and the claims of docs/performance.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, VerboseCases, examples
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError, MedloraError

EXAMPLES = examples(
    "mlx-medlora bench",
    "mlx-medlora bench --model models/medgemma-4b --data lora_training --batch-size 2 --json",
    "mlx-medlora bench --claims",
)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("bench", epilog=EXAMPLES)(bench)


def bench(
    model: Annotated[
        str, typer.Option(help="Model directory, hub id or the embedded model.", metavar="MODEL")
    ] = "tiny-medgemma",
    data: Annotated[
        Path | None,
        typer.Option(help="Dataset directory; the 24 bundled cases where not given.", metavar="DIR"),
    ] = None,
    split: Annotated[str, typer.Option(help="Which of the dataset's splits to score.")] = "val",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a training step.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to time.")] = 5,
    claims: Annotated[
        bool,
        typer.Option("--claims", help="Run every benchmarks/bench_*.py of this checkout, peers included."),
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --claims: toy sizes, only to see that they run.")
    ] = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    json: Json = False,
) -> None:
    """Time this machine: matrix products, training steps, scored cases.

    The step's operations are counted, and its share of the machine's own matmul rate said.
    Nothing is kept. A shared or throttled machine gives lower figures: quote ratios of one run.
    """
    out.use_json(json)
    if quick and not claims:
        raise InputError("--quick is for --claims", hint="Give --claims too, or --steps 1 instead.")
    if claims:
        run_claims(BENCHMARKS, ["--quick"] if quick else [])
        return
    from mlx_medlora.bench import bench as measure

    found = measure(model, data, batch_size=batch_size, steps=steps, split=split, say=out.note)
    out.result(found.model_dump(mode="json"), *found.renderables())


def run_claims(directory: Path, flags: list[str]) -> None:
    """Run each benchmark file and pass on what it prints. Raises MedloraError after all, if one failed."""
    files = sorted(directory.glob("bench_*.py"))
    if not files:
        raise InputError(
            "there are no benchmarks here: they are in the source repository only",
            path=directory,
            hint="Clone the repository, run `make setup`, and try again there.",
        )
    said: dict[str, list[str]] = {}
    failed = []
    for file in files:
        out.note(f"== {file.name}")
        done = subprocess.run([sys.executable, str(file), *flags], stdout=subprocess.PIPE, text=True)
        said[file.name] = done.stdout.splitlines()
        failed += [file.name] if done.returncode else []
        for line in said[file.name]:
            out.note(line)
    out.result({"claims": said, "failed": failed}, f"{len(files) - len(failed)} of {len(files)} ran")
    if failed:
        raise MedloraError(f"did not end well: {', '.join(failed)}", hint="What they said is above.")
