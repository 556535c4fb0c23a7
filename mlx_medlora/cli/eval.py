"""`eval`: a model, with or without an adapter, answers a split; the answers become a scorecard."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    pass

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
    split: Annotated[
        str,
        typer.Option(help="Which of the dataset's splits to answer; a claim takes one that chose nothing."),
    ] = "val",
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
            help="Does it look? Ask four times more: image blanked, an opposite case's, no finding, no text.",
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

    Every rate with its 95 % interval, for all cases and each group, held against gates. The default split,
    val, may have chosen the adapter's epoch, which is then said: a claim takes --split test.
    Writes scorecard.json, predictions.jsonl, heatmaps.json and report.html, a page with the cases' text and
    images: keep it as you keep the dataset. With --adapter health.json too. --dependence and --occlusion add
    dependence.json, --suite adds suite.json and heatmaps/. Research tool, not a medical device.
    """
    out.use_json(json)
    from mlx_medlora.atomic import refuse_unwritable
    from mlx_medlora.cli.answering import opened, session, warn_of_seen_cases
    from mlx_medlora.cli.deciding import decided_by, point_of, redecided
    from mlx_medlora.cli.evaluated import about_run, renderables, write_report
    from mlx_medlora.cli.extras import Extras
    from mlx_medlora.cli.looking import asked_for, look
    from mlx_medlora.evaluation.gate import CARD, judge, read_gates, require, target_of
    from mlx_medlora.evaluation.metrics import FIELDS, check_fields, score
    from mlx_medlora.evaluation.runner import Evaluation, write_evaluation
    from mlx_medlora.lora.formats import detect

    if adapter is not None:
        detect(adapter)
    kept = feature_settings(features, features_limit, no_features)
    refuse_unwritable(output)
    checkup = Checkup(model, adapter, forgetting)
    demands = read_gates(gates, (*FIELDS, *(by or [])))
    point = point_of(adapter, method, ignore_operating_point)
    dataset = opened(data, split)
    check_fields(by or [], [case.metadata.model_dump() for case in dataset.cases(split)])
    looking = asked_for(
        dataset, split, method, dependence=dependence, occlusion=occlusion, grid=occlusion_grid
    )
    fingerprint = dataset.fingerprint(split)
    warn_of_seen_cases(adapter, model, dataset, split)
    verify_model(model, verify)
    about = about_run(model, adapter, data, split, method, fingerprint)
    with session(model, adapter, dataset, split, kept) as asked:
        found = asked.answer(
            dataset, split, f"answering {split}", method=method, batch_size=batch_size, max_tokens=max_tokens
        )
        predictions, applied = decided_by(point, found.predictions, model, fingerprint)
        seen = None
        if looking.wanted:
            decide = partial(redecided, point)
            seen = look(asked, dataset, split, predictions, looking, decide, batch_size)
        checkup.ask(asked.network, asked.encoder)
    card = score(predictions, by=by or [], point=applied, target=target_of(demands), margin=margin)
    report = judge(demands, card, CARD if gates is None else str(gates))
    judged = card.model_copy(update={"gates": report})
    extras = Extras(seen, predictions, judged, demands)
    if suite:
        extras.run_suite(dataset, split)
    last = [] if no_report else [write_report]  # it reads what the others write
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
    out.result(shown, *renderables(columns, written, report), *told, *checkup.lines(), f"Wrote {output}")
    if require_gates:
        require(report)
