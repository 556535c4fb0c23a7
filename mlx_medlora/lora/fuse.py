"""An adapter merged into its base: a model of its own, written tensor by tensor."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from mlx_medlora.atomic import atomic_directory, refuse_nonempty
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.checkpoint import open_checkpoint
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.convert import ConvertSettings, Progress, settings_for, write_model
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.hub import locate
from mlx_medlora.gemma.manifest import ADAPTER, TRAINED_ON, trained_on
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.packing import Packing
from mlx_medlora.gemma.weights import refuse_unloadable
from mlx_medlora.lora.adapter import Adapter, refuse_other_base
from mlx_medlora.lora.formats import read_any
from mlx_medlora.lora.merge import MergedCheckpoint
from mlx_medlora.lora.provenance import Provenance, read_provenance
from mlx_medlora.settings import StrictModel

Format = Literal["mlx", "hf"]
Check = Callable[[Path], None]


class FuseReport(StrictModel):
    """What a fuse did. `bytes` are those of the weight files."""

    model: str
    adapter: str
    output: str
    format: Format
    settings: ConvertSettings
    layers: int
    tied_head: bool
    bytes: int
    seconds: float
    warning: str | None = None  # what to read before the result leaves the machine

    def __str__(self) -> str:
        kind = self.settings.dtype if self.settings.bits is None else f"{self.settings.bits} bits"
        head = "" if self.tied_head else ", with a head of its own (mlx-vlm puts the embedding in its place)"
        return (
            f"{self.layers} layers merged into {self.model} as {kind}{head}, {self.bytes / 1e6:,.1f} MB, "
            + (f"in {self.seconds:.1f} s")
        )


def fuse(
    model: str | Path,
    adapter: Path,
    output: Path,
    *,
    format: Format = "mlx",
    requantise: int | None = None,
    group_size: int = 64,
    check: Check | None = None,
    progress: Progress | None = None,
) -> FuseReport:
    """Write `model` with `adapter` merged in; the directory is complete or absent.

    A quantised base is dequantised, and packed again only with `requantise` (4 or 8 bits): rounding takes
    part of a small update away. Everything else keeps the base's dtype. `check` is given the finished
    directory before it gets its name, and may refuse it by raising. Without packing, both formats are the
    hub's layout. Raises InputError for an adapter of another base or one that cannot be merged.
    """
    started = time.perf_counter()
    refuse_nonempty(output)
    if format == "hf" and requantise is not None:
        raise InputError(
            "the hub's layout is not quantised by MLX", hint="Use --format mlx, or leave --requantise out."
        )
    source = locate(model)
    config = read_config(source.directory)
    found = read_any(adapter, build(config))
    mine, original = fingerprint(source.directory, config), source_fingerprint(source.directory)
    refuse_other_base(found.config.base, mine, original, adapter)
    merged = MergedCheckpoint(open_checkpoint(source.directory, config), found)
    settings = settings_for(requantise, group_size, merged.dtype)
    packing = Packing(merged, settings.quantization, settings.dtype)
    trained = read_provenance(adapter).beside(trained_on(source.directory))
    with atomic_directory(output, private=True) as work:
        written = write_model(
            work, source, merged, packing, settings, _about(adapter, found, trained), progress=progress
        )
        refuse_unloadable(open_checkpoint(work))
        if check is not None:
            check(work)
    return FuseReport(
        model=source.name,
        adapter=str(adapter),
        output=str(output),
        format=format,
        settings=settings,
        layers=len(found.config.modules),
        tied_head=merged.config.tied_head,
        bytes=sum(file.bytes for file in written),
        seconds=round(time.perf_counter() - started, 3),
        warning=trained.warning,
    )


def _about(directory: Path, adapter: Adapter, trained: Provenance) -> dict[str, Any]:
    """What the manifest says of the adapter, and the marks of all that base and adapter were trained on."""
    data = trained.model_dump(mode="json")
    base = adapter.config.base.model_dump()
    marks = [source.model_dump(mode="json") for source in trained.sources]
    return {
        ADAPTER: {"name": directory.resolve().name, "base": base, "data": data},
        **({TRAINED_ON: marks} if marks else {}),
    }
