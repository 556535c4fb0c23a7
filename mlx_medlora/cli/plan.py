"""`plan`: what a training run will take, before anything loads or is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mlx_medlora.cli.options import Data, Json, Offline, VerboseCases, examples
from mlx_medlora.cli.output import out
from mlx_medlora.cli.settings_flags import collect, flags_from
from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.training.settings import PRESETS, Preset, TrainSettings

if TYPE_CHECKING:
    from mlx_medlora.gemma.config import ModelConfig
    from mlx_medlora.training.choose import Choice

EXAMPLES = examples(
    "mlx-medlora plan --model medgemma-4b --data lora_training --memory 16",
    "mlx-medlora plan --model google/medgemma-27b-it --data cases --bits 4 --tflops 14",
    "mlx-medlora plan --model models/medgemma-4b --data cases --batch-size 8 --rank 32",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("plan", epilog=EXAMPLES)(plan)


@flags_from(TrainSettings)
def plan(
    model: Annotated[
        str,
        typer.Option(
            help="Model directory, `tiny-medgemma`, or without any download: medgemma-4b, medgemma-27b, "
            "medgemma-27b-text, or their hub ids.",
            metavar="MODEL",
        ),
    ],
    data: Data,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of train's options; flags given here win.", metavar="F.yaml"),
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="A published recipe to begin from.")] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            help="Memory of a Mac in GB: choose batch, checkpointing and bits that fit it.",
            min=1,
            max=1e6,
        ),
    ] = None,
    bits: Annotated[
        Literal[4, 8] | None, typer.Option(help="Plan as if converted with so many bits.")
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(help="Another machine's matrix rate; left out: measured here.", min=0.001, max=1e6),
    ] = None,
    verbose_cases: VerboseCases = False,
    offline: Offline = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Predict memory, disk and time of a training run.

    Reads config.json and the rows' lengths; no weights, no images, no download.
    With --memory it also picks settings and prints the commands to run; exits with 1 where nothing fits.
    """
    out.use_json(json)
    from mlx_medlora.cli.plan_text import commands, described
    from mlx_medlora.device import usable_memory
    from mlx_medlora.training.choose import choose, ladder, usable, wants_checkpointing
    from mlx_medlora.training.plan import GB, make_plan
    from mlx_medlora.training.rates import measured_rate

    settings = collect(TrainSettings, flags, config, PRESETS[preset] if preset else None)
    geometry, directory = _geometry(model)
    stored = None if directory is None else geometry
    geometry = _packed(geometry, bits)
    lengths = _lengths(data, geometry, settings, directory)
    checkpointing = settings.grad_checkpoint == "on" or (
        settings.grad_checkpoint == "auto"
        and wants_checkpointing(geometry, settings, lengths.train, usable_memory())
    )
    room = 0.0 if memory is None else usable(memory * GB)
    chosen = None if memory is None else choose(geometry, settings, lengths, room)
    if chosen is not None:
        geometry, settings, checkpointing = chosen.config, chosen.settings, chosen.checkpointing
    rate = measured_rate(geometry) if tflops is None else tflops * 1e12
    unpacked = geometry.model_copy(update={"quantization": None})
    tower = measured_rate(unpacked) if tflops is None and geometry.quantization is not None else None
    made = make_plan(geometry, settings, lengths, checkpointing=checkpointing, rate=rate, tower_rate=tower)
    result = {"model": model, **made.model_dump(mode="json")}
    lines = described(made, measured=tflops is None)
    if memory is not None:
        result |= {"memory_gb": memory, "usable": round(room), "fits": chosen is not None, "commands": []}
    if memory is not None and chosen is not None:
        given = {"config": config, "preset": preset} | flags
        result["commands"] = commands(model, stored, data, chosen, given)
        share = f"{_share(memory, room)}, the peak is {chosen.peak / GB:.1f}"
        lines += [f"\nFits a machine of {memory:g} GB ({share}):", *result["commands"]]
    out.result(result, *lines)
    if memory is not None and chosen is None:
        raise _nothing_fits(memory, room, next(ladder(geometry, settings, lengths)))


def _geometry(model: str) -> tuple[ModelConfig, Path | None]:
    """The configuration to plan with, and the directory that it came from, None for a published geometry."""
    from mlx_medlora.gemma.config import read_config
    from mlx_medlora.gemma.geometry import GEOMETRIES, known_geometry
    from mlx_medlora.gemma.hub import locate

    try:
        directory = locate(model, offline=True).directory
    except InputError as error:
        known = known_geometry(model)
        if known is None:
            hint = f"Give a model directory, or plan with a published geometry: {', '.join(GEOMETRIES)}."
            raise InputError(str(error), hint=hint) from error
        return known, None
    return read_config(directory), directory


def _packed(config: ModelConfig, bits: Literal[4, 8] | None) -> ModelConfig:
    """The configuration as `convert --bits` would write it."""
    from mlx_medlora.gemma.config import Quantization

    if bits is None:
        return config
    if config.quantization is not None and config.quantization.bits != bits:
        raise InputError(f"--bits {bits}: the model is quantised to {config.quantization.bits} bits already")
    return config.model_copy(update={"quantization": Quantization(bits=bits)})


def _lengths(data: Path, config: ModelConfig, settings: TrainSettings, directory: Path | None) -> Any:
    from mlx_medlora.gemma.processor import Encoder, load_processor
    from mlx_medlora.training.lengths import read_lengths

    encoder = None if directory is None else Encoder(load_processor(directory), config)
    return read_lengths(data, config, settings, encoder)


def _share(memory: float, room: float) -> str:
    return f"{room / 1e9:.1f} of its {memory:g} GB are for training"


def _nothing_fits(memory: float, room: float, smallest: Choice) -> MedloraError:
    """What to say where not even `smallest`, the lowest rung, is within `room` bytes."""
    again = "" if smallest.checkpointing else "Leave out --grad-checkpoint off, s"
    return MedloraError(
        f"nothing fits a machine of {memory:g} GB: {_share(memory, room)}, and the smallest run takes "
        f"{smallest.peak / 1e9:.1f}",
        hint=f"{again or 'S'}horten the longest rows, adapt fewer layers, or use a smaller model.",
    )
