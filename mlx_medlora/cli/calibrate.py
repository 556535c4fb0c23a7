"""`calibrate`: choose a temperature and a threshold on known cases, and keep them with the adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_medlora.cli.options import (
    Data,
    FeaturesAt,
    FeaturesLimit,
    Json,
    Model,
    NoFeatures,
    Offline,
    VerboseCases,
    Verify,
    examples,
    feature_settings,
    verify_model,
)
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_medlora.evaluation.results import OperatingPoint
    from mlx_medlora.evaluation.results.calibration import Rule
    from mlx_medlora.evaluation.results.measures import Interval

EXAMPLES = examples(
    "mlx-medlora calibrate --model models/medgemma-4b --adapter adapters/first --data cases "
    "--max-false-flag 0.05",
    "mlx-medlora calibrate --model models/medgemma-4b --adapter adapters/first --data cases --split val "
    "--min-sensitivity 0.95 --replace",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("calibrate", epilog=EXAMPLES)(calibrate)


def calibrate(
    model: Model,
    adapter: Annotated[
        Path, typer.Option("--adapter", help="Adapter to choose it for, and to keep it with.", metavar="DIR")
    ],
    data: Data,
    split: Annotated[str, typer.Option(help="The split to choose on: not the one to report on.")] = "val",
    max_false_flag: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Flag at most this share of valid treatments.", metavar="SHARE"),
    ] = None,
    min_sensitivity: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Find at least this share of errors.", metavar="SHARE"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an operating point that is there.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Most cases answered at once; by default as many as pays.")
    ] = None,
    features: FeaturesAt = None,
    features_limit: FeaturesLimit = None,
    no_features: NoFeatures = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    verify: Verify = False,
    json: Json = False,
) -> None:
    """Choose an adapter's operating point: when a case is flagged.

    Fits a temperature to the probabilities of one split, chooses the threshold on it, and writes
    operating_point.json into the adapter directory; `eval` and `generate` use it from then on.
    """
    out.use_json(json)
    from mlx_medlora.cli.answering import answered, opened, warn_of_training_cases
    from mlx_medlora.evaluation.choosing import choose
    from mlx_medlora.evaluation.operating_point import refuse_existing, write_point
    from mlx_medlora.gemma.fingerprint import fingerprint
    from mlx_medlora.gemma.hub import resolve
    from mlx_medlora.lora.formats import detect

    rule, limit = _rule(max_false_flag, min_sensitivity)
    kept = feature_settings(features, features_limit, no_features)
    detect(adapter)
    refuse_existing(adapter, replace=replace)
    dataset = opened(data, split)
    verify_model(model, verify)
    found = answered(model, adapter, dataset, split, kept, batch_size=batch_size)
    chosen_on = dataset.fingerprint(split)
    warn_of_training_cases(adapter, chosen_on)
    point = choose(
        found.predictions,
        rule,
        limit,
        adapter=adapter,
        model=Path(model).name if Path(model).exists() else model,  # an adapter is given away: no paths
        model_fingerprint=fingerprint(resolve(model)),
        split=split,
        split_sha256=chosen_on,
    )
    path = write_point(adapter, point, replace=replace)
    out.result({**point.model_dump(mode="json"), "output": str(path)}, *_renderables(point), f"Wrote {path}")


def _rule(max_false_flag: float | None, min_sensitivity: float | None) -> tuple[Rule, float]:
    """Which of the two rules was asked for. Raises InputError unless it is exactly one."""
    if max_false_flag is not None and min_sensitivity is None:
        return "max-false-flag", max_false_flag
    if min_sensitivity is not None and max_false_flag is None:
        return "min-sensitivity", min_sensitivity
    raise InputError(
        "a threshold is chosen by one rule",
        hint="Give --max-false-flag SHARE or --min-sensitivity SHARE, and not both.",
    )


def _renderables(point: OperatingPoint) -> list[RenderableType]:
    from mlx_medlora.evaluation.results import NOTICE
    from mlx_medlora.evaluation.tables import figure

    return [
        f"Temperature {point.temperature:.3f}: ECE {_rate(point.ece_before, point.ece_before_interval)}, "
        f"after it {_rate(point.ece_after, point.ece_after_interval)}",
        f"ERROR from a probability of {point.threshold:.4f} on ({point.rule} {point.limit:g})",
        f"Errors found: {figure(point.sensitivity)}",
        f"Valid treatments flagged: {figure(point.false_flag_rate)}",
        *(f"Note: {note}" for note in point.notes),
        NOTICE,
    ]


def _rate(value: float, interval: Interval | None) -> str:
    from mlx_medlora.evaluation.shown import bounds

    return f"{value:.3f}" if interval is None else f"{value:.3f} ({bounds(interval, share=False)})"
