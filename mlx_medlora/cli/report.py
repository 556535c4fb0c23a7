"""`report` and `model-card`: what a run found, as a page and as the hub's card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, VerboseCases, examples
from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from mlx_medlora.evaluation.results import Comparison
    from mlx_medlora.evaluation.runs import Run
    from mlx_medlora.marks import DataSource

EXAMPLES = examples(
    "mlx-medlora report runs/mine",
    "mlx-medlora report runs/mine --compare runs/base --compare runs/rank8 --output mine.html",
    "mlx-medlora report runs/mine --data moved/my_dataset --adapter moved/mine --no-images",
    "mlx-medlora report runs/mine --redact --output for-others.html",
)
CARD_EXAMPLES = examples(
    "mlx-medlora model-card runs/mine --output exported/mine/README.md",
    "mlx-medlora model-card runs/theirs --adapter moved/their-peft-adapter --output their-card.md",
)

RunAt = Annotated[Path, typer.Argument(metavar="RUN", help="Directory that `eval` wrote.")]
AdapterNow = Annotated[
    Path | None,
    typer.Option(help="The adapter that was evaluated, if it lies elsewhere now.", metavar="DIR"),
]


def add_to(app: typer.Typer) -> None:
    """Register this file's commands."""
    app.command("report", epilog=EXAMPLES)(report)
    app.command("model-card", epilog=CARD_EXAMPLES)(model_card)


def report(
    run: RunAt,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another run on the same cases, the first one the base; may be given often.",
            metavar="OTHER_RUN",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write; by default report.html in the run's directory.", metavar="FILE"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="The dataset that was answered, if it lies elsewhere now.", metavar="DIR"),
    ] = None,
    adapter: AdapterNow = None,
    no_images: Annotated[bool, typer.Option("--no-images", help="Leave the cases' images out.")] = False,
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Figures only: no case's text, image or id, no patient's id."),
    ] = False,
    verbose_cases: VerboseCases = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Make one page of a run: verdict, figures, and every case.

    One HTML file that opens in any browser and loads nothing: gates, intervals, missed errors, calibration,
    comparison, training curves, and the cases to filter and sort. It holds patients' data unless --redact:
    keep it as you keep the dataset. Research use, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.evaluation.runs import read_run
    from mlx_medlora.report.page import PAGE, write_page
    from mlx_medlora.report.sources import Options, gather

    found = read_run(run)
    options = Options(images=not no_images, redact=redact)
    evidence = gather(found, data, _comparison(found, compare or []), adapter)
    if evidence.absent is not None and not redact:
        out.warning(f"the cases' text and images are left out: {evidence.absent}; --data says where they are")
    for note in evidence.beside.notes:
        out.warning(note)
    path = output or run / PAGE
    with out.progress("images") as step:
        size = write_page(path, evidence, options, step)
    shown = {"output": str(path), "bytes": size, "cases": 0 if redact else found.scorecard.n}
    out.result(shown, f"Wrote {path} ({size / 1e6:.1f} MB)")


def _comparison(run: Run, others: list[Path]) -> Comparison | None:
    """`run` against the others, the first of them the base; None without any."""
    if not others:
        return None
    from mlx_medlora.evaluation.comparing import compare
    from mlx_medlora.evaluation.runs import read_run

    return compare([*(read_run(other) for other in others), run])


def model_card(
    run: RunAt,
    output: Annotated[
        Path, typer.Option(help="File to write, README.md beside the weights.", metavar="FILE")
    ],
    adapter: AdapterNow = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Write a model card in Hugging Face's form from a run's evidence.

    Front matter with `model-index`; what must be known first; every rate with its interval, errors not found,
    gates, whether it looks at the image, threshold, calibration, run health, and what the adapter was trained
    on. It holds no case, and is refused where the adapter is no longer the one that was evaluated. Research
    use, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.atomic import atomic_file
    from mlx_medlora.evaluation.adapters import adapter_of
    from mlx_medlora.evaluation.runs import read_run
    from mlx_medlora.files import plain_os_errors
    from mlx_medlora.report.model_card import with_evidence
    from mlx_medlora.report.sources import without_cases

    found = read_run(run)
    text = _card_of(adapter_of(found, adapter), found)
    evidence = without_cases(found, adapter)
    for note in evidence.beside.notes:
        out.warning(note)
    with plain_os_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as partial:
        partial.write_text(with_evidence(text, evidence), encoding="utf-8", newline="\n")
    out.result({"output": str(output)}, f"Wrote {output}")


def _card_of(adapter: Path | None, run: Run) -> str:
    """The card without figures: of an adapter of this toolkit or of PEFT, or of a model without one."""
    from mlx_medlora.lora.model_card import base_card, model_card
    from mlx_medlora.lora.provenance import Provenance

    model, marks = str(run.scorecard.about.get("model", "unknown")), _marks(run)
    if adapter is None:
        return base_card(model, Provenance(contains=(), others=marks))
    from mlx_medlora.errors import InputError
    from mlx_medlora.lora.formats import detect

    kind = detect(adapter)
    if kind == "PEFT":
        from mlx_medlora.lora.peft_card import peft_card

        return peft_card(adapter, model, marks)
    if kind != "mlx-medlora":
        message = f"is an adapter of {kind}, of which no card is written"
        hint = "`mlx-medlora import` makes one of this toolkit; evaluate that one."
        raise InputError(message, path=adapter, hint=hint)
    from mlx_medlora.lora.adapter import read_adapter_config
    from mlx_medlora.lora.provenance import read_provenance

    return model_card(adapter, read_adapter_config(adapter), read_provenance(adapter).beside(marks))


def _marks(run: Run) -> tuple[DataSource, ...]:
    """Of what data the model's own weights were trained on: as `eval` found it, older runs as it is now."""
    from mlx_medlora.evaluation.adapters import MARKS
    from mlx_medlora.evaluation.runs import SCORECARD
    from mlx_medlora.gemma.manifest import trained_on
    from mlx_medlora.marks import sources_in

    if MARKS in run.scorecard.about:
        return sources_in(run.scorecard.about, MARKS, run.directory / SCORECARD)
    place = run.place("model")
    if place is not None and place.is_dir():
        return trained_on(place)
    out.warning("whether the model's own weights were trained on credentialed data could not be looked up")
    return ()
