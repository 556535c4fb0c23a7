"""How `plan` says a plan, and the commands that carry it out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_medlora.gemma.config import ModelConfig
    from mlx_medlora.training.choose import Choice
    from mlx_medlora.training.memory import Memory
    from mlx_medlora.training.plan import Plan, Seconds


def described(plan: Plan, *, measured: bool) -> list[RenderableType]:
    """A plan for people: the run, memory by part, disk and time."""
    packed = plan.dtype if plan.bits is None else f"{plan.bits} bits"
    lengths = "" if plan.exact_lengths else " (lengths told from characters: no tokenizer, or a large set)"
    lines: list[RenderableType] = [
        f"{plan.rows:,} rows, {plan.validation_rows:,} to validate, {plan.images:,} images, up to "
        f"{plan.longest_row} tokens{lengths}",
        f"{packed}, batch {plan.batch_size} x {plan.accumulate}, gradient checkpointing "
        f"{'on' if plan.checkpointing else 'off'}; {plan.trainable_parameters:,} parameters trained, "
        f"{plan.updates:,} updates\n",
        _memory(plan.memory),
        f"\nOn disk: {size(plan.disk.features)} of image features",
    ]
    if plan.disk.prefix:
        lines.append(f"and {size(plan.disk.prefix)} of hidden states below the trained layers")
    if plan.seconds is not None:
        lines.append(_time(plan.seconds, measured))
    return lines


def _memory(memory: Memory) -> RenderableType:
    from rich.table import Table

    table = Table(title="peak memory", box=None, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    kept = "throughout" if memory.tower_trained else "until the features are there"
    parts = {
        "language model": memory.text,
        f"vision tower ({kept})": memory.tower,
        "tower's pass over images": memory.looking,
        "adapter and optimizer": memory.adapter,
        "batch": memory.batch,
        "activations kept": memory.activations,
        "backward pass": memory.backward,
        "logits": memory.logits,
        "update": memory.update,
    }
    for name, value in parts.items():
        table.add_row(name, size(value))
    table.add_row("peak while computing features", size(memory.features_peak))
    table.add_row("peak of a step", size(memory.step_peak))
    return table


def _time(seconds: Seconds, measured: bool) -> str:
    source = "measured here" if measured else "as given"
    rates = f"{seconds.tflops:.3g} TFLOP/s"
    if seconds.tower_tflops != seconds.tflops:
        rates += f" (packed weights) and {seconds.tower_tflops:.3g} in the tower"
    return (
        f"Time at {rates} ({source}), {seconds.share:.0%} of it reached: features "
        f"{duration(seconds.features)}, step {duration(seconds.step)}, epoch {duration(seconds.epoch)}, "
        f"run {duration(seconds.run)}"
    )


def commands(
    model: str, stored: ModelConfig | None, data: Path, choice: Choice, given: dict[str, Any]
) -> list[str]:
    """`convert` where the chosen form is not there yet, then `train` with every option that was `given`.

    `stored` is the model's own form, None where it is not on disk. What was chosen replaces what was given.
    """
    from mlx_medlora.gemma.geometry import HUB_IDS

    lines, place = [], model
    if stored is None or choice.config.quantization != stored.quantization:
        source = next((hub for hub, name in HUB_IDS.items() if name == model), model)
        place = f"models/{Path(source).name}" + ("" if choice.bits is None else f"-{choice.bits}bit")
        bits = [] if choice.bits is None else ["--bits", str(choice.bits)]
        lines.append(["mlx-medlora", "convert", source, place, *bits])
    own: dict[str, Any] = {
        "batch_size": choice.settings.batch_size,
        "accumulate": choice.settings.accumulate,
        "grad_checkpoint": "on" if choice.checkpointing else "off",
    }
    said = {name: value for name, value in given.items() if value is not None} | own
    options = [part for name, value in said.items() for part in _option(name, value)]
    lines.append(
        ["mlx-medlora", "train", "--model", place, "--data", str(data), "--output", "adapters/planned"]
    )
    lines[-1] += options
    return [shlex.join(line) for line in lines]


def _option(name: str, value: Any) -> list[str]:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    return [f"--{option}", str(value)]


def size(count: float) -> str:
    """Bytes in decimal units, as macOS shows them."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads well."""
    for unit, scale in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:,.1f} {unit}"
    return f"{seconds:,.2g} s"
