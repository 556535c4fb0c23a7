"""`eval`: a model, with or without an adapter, answers a split; the answers become a scorecard."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlx_medlora.cli.health import AskGeneral, Checkup
from mlx_medlora.cli.options import (
    Adapter,
    Data,
    FeaturesAt,
    FeaturesLimit,
    IgnorePoint,
    Json,
    Model,
    NoFeatures,
    Offline,
    Output,
    VerboseCases,
    Verify,
    examples,
    feature_settings,
    verify_model,
)
from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_medlora.evaluation.results import AppliedPoint, GateReport, OperatingPoint, Prediction, Scorecard

EXAMPLES = examples(
    "mlx-medlora eval --model models/medgemma-4b --data lora_training --output runs/base",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --output runs/first",
    "mlx-medlora eval --model tiny-medgemma --data lora_training --method generate --output runs/words",
    "mlx-medlora eval --model /volumes/usb/medgemma-4b --data cases --output runs/copied --verify",
    "mlx-medlora eval --model models/medgemma-4b --data cases --by gender --by site --output runs/groups",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --split test "
    "--gates gates.yaml --require-gates --output runs/gated",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases "
    "--ignore-operating-point --margin 0.02 --output runs/plain",
    "mlx-medlora eval --model models/medgemma-4b --data cases --no-report --output runs/figures-only",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --split test "
    "--suite --output models/first-benchmarks",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --split test "
    "--dependence --occlusion xray_00012,mri_00007 --occlusion-grid 14 --output runs/looked",
    "mlx-medlora eval --model models/medgemma-4b --adapter adapters/first --data cases --no-forgetting "
    "--output runs/quick",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("eval", epilog=EXAMPLES)(evaluate)


def evaluate(
    model: Model,
    data: Data,
    output: Output,
    adapter: Adapter = None,
    split: Annotated[str, typer.Option(help="Which of the dataset's splits to answer.")] = "val",
    method: Annotated[
        Literal["score", "generate"],
        typer.Option(help="score: the two verdicts' probabilities; generate: the answer as written."),
    ] = "score",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most cases answered at once; by default as many as pays.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer of --method generate.")] = 64,
    by: Annotated[
        list[str] | None,
        typer.Option(help="A metadata field to group by as well; may be given often.", metavar="FIELD"),
    ] = None,
    gates: Annotated[
        Path | None,
        typer.Option(help="YAML file of gates; by default the dataset card's.", metavar="FILE"),
    ] = None,
    require_gates: Annotated[
        bool, typer.Option("--require-gates", help="Exit with 3 where a gate fails or is undecided.")
    ] = False,
    margin: Annotated[
        float,
        typer.Option(min=0.001, max=0.5, help="Tell how many cases give the accuracy to within this."),
    ] = 0.05,
    ignore_operating_point: IgnorePoint = False,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="Write no report.html; `report` makes it later.")
    ] = False,
    dependence: Annotated[
        bool,
        typer.Option(
            "--dependence",
            help="Does it look? Ask four times more: image blanked, another case's, no finding, no text.",
        ),
    ] = False,
    suite: Annotated[
        bool,
        typer.Option("--suite", help="The benchmark suite: baselines beside the model, and heatmaps drawn."),
    ] = False,
    occlusion: Annotated[
        str | None,
        typer.Option(help="Cases of which to draw what moves the answer.", metavar="ID[,ID...]"),
    ] = None,
    occlusion_grid: Annotated[
        int,
        typer.Option(min=2, max=56, help="Patches a side of --occlusion; the tower runs for each."),
    ] = 7,
    forgetting: AskGeneral = True,
    features: FeaturesAt = None,
    features_limit: FeaturesLimit = None,
    no_features: NoFeatures = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Measure a model on one split of a dataset.

    Every figure with its 95 % interval, for all cases and each group, held against gates.
    Writes scorecard.json, predictions.jsonl, heatmaps.json and report.html, a page with the cases' text and
    images: keep it as you keep the dataset. With --adapter health.json too. --dependence and --occlusion add
    dependence.json, --suite adds suite.json and heatmaps/. Research tool, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.cli.answering import opened, session, warn_of_training_cases
    from mlx_medlora.cli.extras import Extras
    from mlx_medlora.cli.looking import asked_for, look
    from mlx_medlora.evaluation.gate import CARD, judge, read_gates, require, target_of
    from mlx_medlora.evaluation.metrics import FIELDS, check_fields, score
    from mlx_medlora.evaluation.runner import Evaluation, write_evaluation
    from mlx_medlora.files import refuse_unwritable

    kept = feature_settings(features, features_limit, no_features)
    refuse_unwritable(output)
    checkup = Checkup(model, adapter, forgetting)
    demands = read_gates(gates, (*FIELDS, *(by or [])))
    point = _point(adapter, method, ignore_operating_point)
    dataset = opened(data, split)
    check_fields(by or [], [case.metadata.model_dump() for case in dataset.cases(split)])
    looking = asked_for(
        dataset, split, method, dependence=dependence, occlusion=occlusion, grid=occlusion_grid
    )
    fingerprint = dataset.fingerprint(split)
    warn_of_training_cases(adapter, fingerprint)
    verify_model(model, verify)
    with session(model, adapter, dataset, split, kept) as asked:
        found = asked.answer(
            dataset, split, f"answering {split}", method=method, batch_size=batch_size, max_tokens=max_tokens
        )
        predictions, applied = _decided(point, found.predictions, model, fingerprint)
        seen = None
        if looking.wanted:
            decide = partial(_redecided, point)
            seen = look(asked, dataset, split, predictions, looking, decide, batch_size)
        checkup.ask(asked.network, asked.encoder)
    card = score(predictions, by=by or [], point=applied, target=target_of(demands), margin=margin)
    report = judge(demands, card, CARD if gates is None else str(gates))
    about = _about(model, adapter, data, split, method, fingerprint)
    judged = card.model_copy(update={"gates": report})
    extras = Extras(seen, predictions, judged, demands)
    if suite:
        extras.run_suite(dataset, split)
    last = [] if no_report else [_write_report]  # it reads what the others write
    written = write_evaluation(
        output,
        Evaluation(predictions),
        about,
        judged,
        gates=demands,
        then=[extras.write, checkup.write, *last],
    )
    shown = {**written.model_dump(mode="json"), **checkup.results(), "output": str(output)}
    told = [] if seen is None else seen.dependence.sentences
    if seen is not None:
        shown["dependence"] = seen.dependence.model_dump(mode="json", exclude={"occlusion"})
    if extras.suite is not None:
        told += extras.suite.sentences
        shown["suite"] = extras.suite.model_dump(mode="json")
    columns = {split: written, **extras.baselines}
    out.result(shown, *_renderables(columns, written, report), *told, *checkup.lines(), f"Wrote {output}")
    if require_gates:
        require(report)


def _point(adapter: Path | None, method: str, ignore: bool) -> OperatingPoint | None:
    """The adapter's operating point where it is to be used; read before the model loads."""
    from mlx_medlora.evaluation.operating_point import read_point

    if adapter is None or ignore or not adapter.is_dir():
        return None
    point = read_point(adapter)
    if point is not None and method == "generate":
        out.note(
            "The adapter's operating point is for --method score: written answers are taken as they stand."
        )
        return None
    return point


def _decided(
    point: OperatingPoint | None, predictions: list[Prediction], model: str, split_sha256: str
) -> tuple[list[Prediction], AppliedPoint | None]:
    """The answers by the operating point, if there is one, with warnings of what speaks against it."""
    from mlx_medlora.evaluation.operating_point import apply_point
    from mlx_medlora.gemma.fingerprint import fingerprint
    from mlx_medlora.gemma.hub import resolve

    if point is None:
        return predictions, None
    mine = fingerprint(resolve(model))
    decided, applied = apply_point(point, predictions, split_sha256=split_sha256, model_fingerprint=mine)
    for warning in applied.warnings:
        out.warning(warning)
    return decided, applied


def _write_report(run: Path) -> None:
    """report.html into the run's directory. Where that fails the answers, hours of work perhaps, are kept."""
    from mlx_medlora.errors import NoSpace
    from mlx_medlora.evaluation.runs import read_run
    from mlx_medlora.files import disk_is_full
    from mlx_medlora.privacy import may_hold_cases
    from mlx_medlora.report.page import PAGE, write_page
    from mlx_medlora.report.sources import gather

    try:
        with out.progress("report.html") as step:
            write_page(run / PAGE, gather(read_run(run)), progress=step)
    except Exception as error:  # whatever it was, the figures are right and already written
        if isinstance(error, NoSpace) or disk_is_full(error):
            raise
        reason = type(error).__name__ + ("" if may_hold_cases() else f": {error}")
        out.warning(f"{PAGE} was not written ({reason}); `mlx-medlora report` tries again")


def _redecided(point: OperatingPoint | None, predictions: list[Prediction]) -> list[Prediction]:
    """Further answers by the same operating point."""
    from mlx_medlora.evaluation.operating_point import decided

    if point is None:
        return predictions
    return [decided(row, point.temperature, point.threshold) for row in predictions]


def _renderables(columns: dict[str, Scorecard], card: Scorecard, report: GateReport) -> list[RenderableType]:
    from mlx_medlora.evaluation.tables import gates_table, misses_table, scorecard_table

    shown: list[RenderableType] = [scorecard_table(columns, more=True)]
    if card.misses.rows:
        shown.append(misses_table(card.misses))
    shown.append(gates_table(report))
    if card.calibration is not None:
        brier = card.calibration.brier.value
        shown.append(f"Calibration: ECE {card.calibration.ece:.3f}, Brier {brier:.3f}")
    if card.operating_point is not None:
        used = card.operating_point
        shown.append(
            f"Operating point: ERROR from {used.threshold:.4f} on, after temperature {used.temperature:.3f} "
            f"({used.rule} {used.limit:g}, chosen on {used.n} cases of {used.split})"
        )
    if card.sample_size is not None:
        shown.append(card.sample_size.sentence)
    return [*shown, card.notice]


def _about(
    model: str, adapter: Path | None, data: Path, split: str, method: str, fingerprint: str
) -> dict[str, Any]:
    """What was evaluated and how, for scorecard.json."""
    from mlx_medlora import __version__
    from mlx_medlora.training.record import versions

    return {
        "model": model,
        "adapter": None if adapter is None else str(adapter),
        "data": str(data),
        "split": split,
        "split_sha256": fingerprint,
        "method": method,
        "mlx_medlora": __version__,
        "versions": versions(),
    }
