"""`fuse`: an adapter merged into the weights of its base."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mlx_medlora.cli.options import (
    Json,
    Model,
    Offline,
    Output,
    VerboseCases,
    Verify,
    examples,
    verify_model,
)
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError, MedloraError

if TYPE_CHECKING:
    from mlx_medlora.evaluation.drift import Drift

EXAMPLES = examples(
    "mlx-medlora fuse --model models/medgemma-4b --adapter adapters/mine --output models/mine",
    "mlx-medlora fuse --model google/medgemma-4b-it --adapter adapters/mine --output models/hf --format hf",
    "mlx-medlora fuse --model models/medgemma-4b --adapter adapters/mine --output models/mine-4bit "
    "--requantise 4 --data my_dataset",
    "mlx-medlora fuse --model /volumes/usb/medgemma-4b --adapter adapters/mine --output models/m --verify",
)
PHANTOMS = 40


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("fuse", epilog=EXAMPLES)(fuse)


def fuse(
    model: Model,
    adapter: Annotated[
        Path, typer.Option(help="Adapter of `train`, PEFT, mlx-lm or mlx-vlm.", metavar="DIR")
    ],
    output: Output,
    format: Annotated[
        Literal["mlx", "hf"], typer.Option(help="hf: the hub's layout, for transformers and llama.cpp.")
    ] = "mlx",
    requantise: Annotated[
        Literal[4, 8] | None, typer.Option(help="Pack the result again, and measure what that costs.")
    ] = None,
    group_size: Annotated[Literal[32, 64, 128], typer.Option(help="Weights that share one scale.")] = 64,
    data: Annotated[
        Path | None,
        typer.Option(help="Dataset for --requantise to measure on; left out: drawn phantoms.", metavar="DIR"),
    ] = None,
    split: Annotated[str, typer.Option(help="The dataset's split to measure on.")] = "val",
    most_changed: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of answers that packing may change.")
    ] = 0.02,
    anyway: Annotated[bool, typer.Option("--anyway", help="Write the result even past that share.")] = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Merge an adapter into its base: a model of its own.

    A quantised base is dequantised: packing again rounds part of the adapter away. The directory is
    complete or absent.
    """
    out.use_json(json)
    from mlx_medlora.cli.answering import note_point_left, opened
    from mlx_medlora.lora.fuse import fuse as merge

    if data is not None:
        if requantise is None:
            raise InputError("--data goes with --requantise", hint="Without it nothing is measured.")
        opened(data, split)  # its faults are said before the work
    verify_model(model, verify)
    measured: list[Drift] = []
    check = None if requantise is None else _measure(model, adapter, data, split, measured)

    def refuse_or_pass(work: Path) -> None:
        if check is not None:
            _judge(check(work), most_changed, anyway)

    with out.progress("fusing") as step:
        report = merge(
            model,
            adapter,
            output,
            format=format,
            requantise=requantise,
            group_size=group_size,
            check=refuse_or_pass,
            progress=step,
        )
    note_point_left(adapter)
    said = report.model_dump(mode="json") | {"drift": measured[0].model_dump() if measured else None}
    out.result(said, str(report), *map(_sentence, measured), f"Wrote {output}")
    if report.warning:
        out.warning(report.warning)


def _measure(
    model: str, adapter: Path, data: Path | None, split: str, measured: list[Drift]
) -> Callable[[Path], Drift]:
    """A function that measures a finished directory against base and adapter."""

    def measure(work: Path) -> Drift:
        from mlx_medlora.cases.dataset import Dataset
        from mlx_medlora.cases.prepare import prepare_phantoms
        from mlx_medlora.evaluation.drift import compare, snapshot

        with tempfile.TemporaryDirectory() as drawn:
            place = data
            if place is None:
                place = Path(drawn) / "phantoms"
                prepare_phantoms(2 * PHANTOMS, place, seed=0, val=PHANTOMS, test=0)
            dataset = Dataset.open(place)
            before = snapshot(model, adapter, dataset, split)
            measured.append(compare(before, snapshot(work, None, dataset, split)))
        return measured[0]

    return measure


def _judge(drift: Drift, most_changed: float, anyway: bool) -> None:
    if drift.share > most_changed and not anyway:
        raise MedloraError(
            f"packing changes too much: {_sentence(drift)}; at most {most_changed:.1%} may change",
            hint="Use 8 bits, leave --requantise out, or write it all the same with --anyway.",
        )


def _sentence(drift: Drift) -> str:
    return (
        f"{drift.answers_changed} of {drift.n} answers changed by packing ({drift.share:.1%}); "
        f"logits differ by up to {drift.logits:.2%} of the largest, KL {drift.kl:.4f} nats"
    )
