"""`train`: a dataset and a base become an adapter. Flags and YAML keys come from TrainSettings."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from mlx_medlora.cli.settings_flags import collect, flags_from
from mlx_medlora.cli.trained import rehearsal, summary
from mlx_medlora.errors import InputError
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.training.settings import PRESETS, Preset, TrainSettings

if TYPE_CHECKING:
    from mlx_medlora.training.events import Accuracy
    from mlx_medlora.training.run import Validation

EXAMPLES = examples(
    "mlx-medlora train --model models/medgemma-4b --data lora_training --output adapters/first",
    "mlx-medlora train --model tiny-medgemma --data lora_training --output adapters/tiny --lr 2e-3",
    "mlx-medlora train --model models/medgemma-4b --data cases --output adapters/b --config recipe.yaml",
    "mlx-medlora train --model models/medgemma-4b --data cases --output adapters/c --preset google-notebook",
    "mlx-medlora train --model models/medgemma-4b --data cases --output adapters/d --features /big/features",
    "mlx-medlora train --model models/medgemma-4b --data cases --output adapters/f --replay general.jsonl "
    "--replay-share 0.2",
    "mlx-medlora train --model models/medgemma-4b --data cases --output adapters/g "
    "--log-to tensorboard,wandb",
    "mlx-medlora train --model models/medgemma-4b --data lora_training --dry-run",
    "mlx-medlora train --model models/medgemma-4b --data lora_training --output adapters/first --resume",
    "mlx-medlora train --model /volumes/usb/medgemma-4b --data cases --output adapters/e --verify",
)


@dataclass(frozen=True)
class Logs:
    """Which loggers write, and where."""

    names: tuple[str, ...]
    directory: Path

    @classmethod
    def of(cls, names: str, directory: Path | None, output: Path) -> Logs:
        """From the flags. Raises InputError for an unknown logger, or one that is not installed."""
        from mlx_medlora.training.loggers.opening import checked

        if directory is not None and not names.strip():
            raise InputError("--log-dir is given without --log-to", hint="Add --log-to tensorboard.")
        place = (output.parent / "logs" if directory is None else directory) / output.name
        return cls(checked(names.split(",")), Path(os.path.abspath(place)))


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("train", epilog=EXAMPLES)(train)


@flags_from(TrainSettings)
def train(
    context: typer.Context,
    model: Model,
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option(help="Adapter directory to write; must not exist or be empty.", metavar="DIR"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of the options below; flags given here win.", metavar="F.yaml"),
    ] = None,
    preset: Annotated[
        Preset | None,
        typer.Option(help="A published recipe to begin from; the file and the flags win over it."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Load, tokenise, run one step, show what is supervised; write nothing."
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run that was interrupted, to the same bytes."),
    ] = False,
    resume_anyway: Annotated[
        str,
        typer.Option(
            help="With --resume: what may have changed since, as lr,epochs (or model, data, tokenizer, "
            "processor).",
            metavar="NAMES",
        ),
    ] = "",
    features: FeaturesAt = None,
    features_limit: FeaturesLimit = None,
    no_features: NoFeatures = False,
    verify: Verify = False,
    log_to: Annotated[
        str,
        typer.Option(
            help="Also log to tensorboard, wandb, trackio (separated by commas): figures only, never text or "
            "images, and on this machine alone: wandb is offline unless WANDB_MODE=online is set.",
            metavar="NAMES",
        ),
    ] = "",
    log_dir: Annotated[
        Path | None,
        typer.Option(
            help="With --log-to: where a directory of the output's name goes. [default: logs beside it]",
            metavar="DIR",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before --prefix-cache takes disk space.")
    ] = False,
    offline: Offline = False,
    verbose_cases: VerboseCases = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Train a LoRA adapter on a dataset.

    Keeps the best by validation loss, and the last. The base stays as it is;
    the adapter directory is complete or absent. Ctrl-C saves the state: --resume
    continues it. Several processes or machines: docs/distributed.md.
    """
    out.use_json(json)
    settings = collect(TrainSettings, flags, config, PRESETS[preset] if preset else None)
    if flags.get("replay_share") is not None and settings.replay is None:
        raise InputError("--replay-share is given without --replay", hint="Add --replay FILE.")
    if output is None and not dry_run:
        raise InputError("--output is missing", hint="Give --output DIR, or --dry-run to write nothing.")
    verify_model(model, verify)
    if output is None or dry_run:
        rehearse(settings, model, data)
    else:
        anyway = [name for name in resume_anyway.split(",") if name.strip()]
        kept = feature_settings(features, features_limit, no_features)
        logs = Logs.of(log_to, log_dir, output)
        start(settings, model, data, output, kept, resume, anyway, continuing(context.obj), yes, logs)


def continuing(arguments: Sequence[str] | None) -> str:
    """The command line that continues a run which `arguments` began."""
    given = list(arguments or ["train", "..."])
    return shlex.join(["mlx-medlora", *given, *([] if "--resume" in given else ["--resume"])])


def rehearse(settings: TrainSettings, model: str, data: Path) -> None:
    """Say what would be trained."""
    from mlx_medlora.training.dry_run import dry_run

    warn_of_lone_answers(data)
    seen = dry_run(model, data, settings)
    out.result(seen.model_dump(mode="json"), *rehearsal(seen))


def start(
    settings: TrainSettings,
    model: str,
    data: Path,
    output: Path,
    features: FeatureSettings,
    resume: bool,
    anyway: Sequence[str],
    again: str,
    yes: bool,
    logs: Logs,
) -> None:
    """Train, and say the outcome."""
    from mlx_medlora.training.log import ProgressBar
    from mlx_medlora.training.loggers.opening import open_loggers
    from mlx_medlora.training.run import run_training

    warn_of_lone_answers(data)
    with ProgressBar() as bar, open_loggers(logs.names, logs.directory, settings, out.warning) as loggers:
        result = run_training(
            model,
            data,
            output,
            settings,
            features=features,
            validate=validation_accuracy,
            listeners=[bar, *loggers],
            resume=resume,
            resume_anyway=anyway,
            again=again,
            confirm=None if yes else ask,
        )
    if result.first:
        from mlx_medlora.cli.health import lines
        from mlx_medlora.evaluation.curves import read_curves
        from mlx_medlora.evaluation.health import health

        found = health(read_curves(output))
        said = {"output": str(output), **result.record.model_dump(mode="json"), "health": found.model_dump()}
        out.result(said, summary(result.record), *lines(found), f"Wrote {output}")


def warn_of_lone_answers(data: Path) -> None:
    """Say where what is trained or validated on has one right answer alone."""
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.cli.answering import warn_of_one_answer

    with suppress(InputError):  # training says it, where all ranks hear of it
        warn_of_one_answer(Dataset.open(data), "train", "val")


def ask(what: str) -> bool:
    """Whether the person at the terminal agrees. Raises InputError where there is none to ask."""
    if not sys.stdin.isatty():
        raise InputError(f"{what}, and nobody can be asked here", hint="Give --yes to agree beforehand.")
    return typer.confirm(f"{what}. Go on?", err=True)


def validation_accuracy(given: Validation) -> Accuracy | None:
    """The share of the validation split that the model scores right with its interval, as `eval` would."""
    from mlx_medlora.evaluation.runner import evaluate
    from mlx_medlora.training.events import Accuracy

    found = evaluate(given.model, given.encoder, given.dataset, given.split, features=given.features)
    return None if found.accuracy is None else Accuracy(found.accuracy, found.scorecard.accuracy_interval)
