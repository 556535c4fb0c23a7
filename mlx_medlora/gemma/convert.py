"""Convert a checkpoint to an MLX directory by blocks of rows: memory stays the same for any size of model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
from pydantic import Field

from mlx_medlora.atomic import atomic_directory, refuse_nonempty
from mlx_medlora.errors import InputError, NoSpace
from mlx_medlora.files import write_json
from mlx_medlora.gemma.checkpoint import Checkpoint, open_checkpoint
from mlx_medlora.gemma.config import ModelConfig, Quantization, published_config, read_config
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.hub import Source, locate
from mlx_medlora.gemma.manifest import carried, write_manifest
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.packing import Packing
from mlx_medlora.gemma.shards import SHARD_BYTES, ShardWriter, Written
from mlx_medlora.gemma.weights import refuse_misfits
from mlx_medlora.settings import StrictModel, validate

_COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
)
_CACHE_BYTES = 64 << 20
_SPARE_BYTES = 64 << 20  # tokenizer and small files

Progress = Callable[[int, int], None]


class ConvertSettings(StrictModel):
    """What the weights become."""

    bits: Literal[4, 8] | None = Field(
        None, description="Bits of the text stack's matrices; none: not packed."
    )
    group_size: Literal[32, 64, 128] = Field(64, description="Neighbouring weights that share one scale.")
    dtype: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Of everything that is not quantised; Gemma 3 overflows float16."
    )

    @property
    def quantization(self) -> Quantization | None:
        """The block for config.json."""
        return None if self.bits is None else Quantization(bits=self.bits, group_size=self.group_size)


class ConvertReport(StrictModel):
    """What a conversion did. `bytes` are those of the weight files; `parameters` counts the model's."""

    source: str
    revision: str | None
    output: str
    settings: ConvertSettings
    parameters: int
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        packed = self.settings
        kind = packed.dtype if packed.bits is None else f"{packed.bits} bits in groups of {packed.group_size}"
        commit = "" if self.revision is None else f" at {self.revision[:12]}"
        lines = [
            f"{self.source}{commit}: {self.parameters / 1e6:,.1f} million parameters as {kind}, "
            f"{self.bytes / 1e6:,.1f} MB, in {self.seconds:.1f} s",
            *self.notes,
        ]
        return "\n".join(lines)


def convert(
    source: str | Path,
    output: Path,
    *,
    bits: int | None = None,
    group_size: int = 64,
    dtype: str = "bfloat16",
    shard_bytes: int = SHARD_BYTES,
    offline: bool = False,
    progress: Progress | None = None,
) -> ConvertReport:
    """Convert a hub id or a directory to an MLX directory, which is complete or absent.

    With `bits` (4 or 8) the text stack's matrices are quantised; the vision tower and the projector
    never are. `shard_bytes` is the most data in one file; `progress` gets bytes written and in all.
    Raises InputError for a source or settings that cannot be converted and an output that is not
    empty, MedloraError where the hub cannot be reached, NoSpace where the disk is full.
    """
    started = time.perf_counter()
    settings = settings_for(bits, group_size, dtype)
    output = Path(output)
    refuse_nonempty(output)
    found = locate(source, offline=offline)
    checkpoint = _readable(found.directory)
    packing = Packing(checkpoint, settings.quantization, settings.dtype)
    about = {"source_fingerprint": _origin(found), **(inside := carried(found.directory))}
    _refuse_small_disk(output, sum(planned.bytes for planned in packing.plan()))
    with atomic_directory(output, private=bool(inside)) as work:  # a fused model's weights saw cases
        files = write_model(
            work, found, checkpoint, packing, settings, about, shard_bytes=shard_bytes, progress=progress
        )
    return ConvertReport(
        source=found.name,
        revision=found.revision,
        output=str(output),
        settings=settings,
        parameters=packing.parameters(),
        bytes=sum(file.bytes for file in files),
        seconds=round(time.perf_counter() - started, 3),
        notes=_notes(output),
    )


def write_model(
    work: Path,
    source: Source,
    checkpoint: Checkpoint,
    packing: Packing,
    settings: ConvertSettings,
    about: dict[str, Any],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Written]:
    """Write weights, configuration, the source's companions and a manifest into the directory `work`.

    `checkpoint` gives the tensors that `packing` packs; `about` says in the manifest what they come from
    beside the source's name; `progress` gets bytes written and in all.
    """
    plan = packing.plan()
    total = sum(planned.bytes for planned in plan)
    report = None if progress is None else lambda done: progress(done, total)
    with (
        _small_buffer_cache(),
        ShardWriter(work, plan, mark=packing.mark, limit=shard_bytes, progress=report) as shards,
    ):
        for block in packing.blocks():
            for name, rows in block:
                shards.append(name, rows)
        files = shards.finish()
    _write_config(work, checkpoint.config, settings)
    _copy_companions(source.directory, work)
    told = {"source": source.name, "revision": source.revision, **about}
    write_manifest(work, files, told, settings.model_dump(mode="json"), packing.parameters())
    return files


def settings_for(bits: int | None, group_size: int, dtype: str) -> ConvertSettings:
    """Checked settings. Raises InputError for bits, group sizes and dtypes that cannot be used."""
    if dtype in ("float16", "fp16", "half"):
        raise InputError(
            f"dtype {dtype} cannot be used: Gemma 3 overflows it", hint="Use bfloat16 (or float32)."
        )
    return validate(ConvertSettings, {"bits": bits, "group_size": group_size, "dtype": dtype})


def _readable(directory: Path) -> Checkpoint:
    """Open a source; every tensor is checked against config.json before anything is written."""
    config = read_config(directory)
    checkpoint = open_checkpoint(directory, config)
    if checkpoint.quantized or config.quantization is not None:
        raise InputError(
            "is already quantised; quantising again would only lose more",
            path=directory,
            hint="Use it as it is, or convert the original weights.",
        )
    refuse_misfits(build(config), checkpoint)  # built lazily: its random weights are never computed
    return checkpoint


def _refuse_small_disk(output: Path, total: int) -> None:
    parent = output.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < total + _SPARE_BYTES:
        raise NoSpace(
            f"no space for {output}: it needs {(total + _SPARE_BYTES) / 1e6:,.0f} MB with its small files, "
            f"{free / 1e6:,.0f} MB are free",
            hint="Free some space, choose another disk, or use fewer bits.",
        )


@contextmanager
def _small_buffer_cache() -> Iterator[None]:
    """Keep few freed buffers for reuse: MLX would keep those of every shape of block."""
    limit = mx.set_cache_limit(_CACHE_BYTES)
    try:
        yield
    finally:
        mx.set_cache_limit(limit)


def _write_config(work: Path, config: ModelConfig, settings: ConvertSettings) -> None:
    update = {"dtype": settings.dtype, "quantization": settings.quantization}
    write_json(work / "config.json", published_config(config.model_copy(update=update)))


def _copy_companions(source: Path, work: Path) -> None:
    """Copy the tokenizer's, processor's and licence files as real files: the hub's cache has links."""
    for pattern in _COMPANIONS:
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, work / path.name)


def _origin(source: Source) -> str:
    """The fingerprint of the weights that all of this came from; a fused model begins anew."""
    return source_fingerprint(source.directory) or fingerprint(source.directory)


def _notes(output: Path) -> tuple[str, ...]:
    if (output / "tokenizer.json").is_file():
        return ()
    return ("The source has no tokenizer.json: add the tokenizer's files before training or generating.",)
