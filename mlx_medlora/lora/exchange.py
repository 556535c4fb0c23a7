"""Adapters to and from other tools, directory to directory; each result is complete or absent."""

from __future__ import annotations

from pathlib import Path

from mlx_medlora.atomic import atomic_directory, refuse_nonempty
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.gemma.hub import resolve
from mlx_medlora.gemma.manifest import trained_on
from mlx_medlora.gemma.model import build
from mlx_medlora.lora.adapter import (
    WEIGHTS,
    Adapter,
    BaseModelId,
    read_adapter_config,
    read_own_tensors,
    refuse_other_base,
    write_adapter,
)
from mlx_medlora.lora.formats import detect, read_any
from mlx_medlora.lora.model_card import CARD, model_card
from mlx_medlora.lora.peft_export import write_peft
from mlx_medlora.lora.provenance import read_provenance, write_provenance
from mlx_medlora.settings import StrictModel


class Exchanged(StrictModel):
    """What an import or export did: the formats, how many layers were bound, and the base."""

    source: str
    output: str
    from_format: str
    to_format: str
    layers: int
    tensors: int
    base: str
    warning: str | None = None  # what to read before the result leaves the machine

    def __str__(self) -> str:
        return (
            f"{self.from_format} adapter of {self.base}: {self.layers} layers bound, "
            f"{self.tensors} tensors, none left out"
        )


def export_adapter(directory: Path, output: Path, *, before_4_52: bool = False) -> Exchanged:
    """Write this toolkit's adapter in `directory` as a PEFT adapter with a model card.

    `before_4_52` writes the names of transformers 4.50 and 4.51. Raises InputError where `directory` is
    no adapter of this toolkit, or `output` is not empty.
    """
    refuse_nonempty(output)
    config = read_adapter_config(directory)
    adapter = Adapter(config, read_own_tensors(directory / WEIGHTS, config))
    about = read_provenance(directory)
    with atomic_directory(output, private=True) as work:
        write_peft(work, adapter, before_4_52=before_4_52)
        write_provenance(work, about)
        (work / CARD).write_text(model_card(directory, config, about), encoding="utf-8")
    return _exchanged(directory, output, "mlx-medlora", "PEFT", adapter, about.warning)


def import_adapter(directory: Path, output: Path, model: str | None = None) -> Exchanged:
    """Write the adapter in `directory`, of PEFT, mlx-lm or mlx-vlm, as one of this toolkit.

    `model` is its base (directory or hub id); without it, the base that the adapter names, if it is here or
    in the hub's cache. Only the
    base's configuration and headers are read. Raises InputError for whatever does not bind, a base that
    is not found, and an `output` that is not empty.
    """
    refuse_nonempty(output)
    kind = detect(directory)
    home = _base_directory(directory, model)
    base_config = read_config(home)
    adapter = read_any(directory, build(base_config))
    mine, source = fingerprint(home, base_config), source_fingerprint(home)
    named = adapter.config.base
    refuse_other_base(named, mine, source, directory)
    base = BaseModelId(id=named.id, fingerprint=mine, source=source)
    adapter = Adapter(adapter.config.model_copy(update={"base": base}), adapter.tensors)
    about = read_provenance(directory).beside(trained_on(home))
    with atomic_directory(output, private=True) as work:
        write_adapter(work, adapter)
        write_provenance(work, about)
    return _exchanged(directory, output, kind, "mlx-medlora", adapter, about.warning)


def _base_directory(directory: Path, model: str | None) -> Path:
    from mlx_medlora.lora.foreign import convention
    from mlx_medlora.lora.peft_config import read_peft_config

    if model is not None:
        return resolve(model)
    kind, path = detect(directory), directory / "adapter_config.json"
    if kind == "PEFT":
        named = read_peft_config(path).base_model_name_or_path
    else:
        named = (
            read_adapter_config(directory).base.id if kind == "mlx-medlora" else convention(directory).model
        )
    hint = "Give the base with --model: a directory, or a hub id to be downloaded."
    if not named or named == "unknown":
        raise InputError("does not say which model it was trained on", path=path, hint=hint)
    try:
        return resolve(named, offline=True)  # what a stranger's adapter names is not downloaded unasked
    except InputError as error:
        message = f"its base {named!r} is not to be had: {error}"
        raise InputError(message, path=path, hint=hint) from error


def _exchanged(
    source: Path, output: Path, before: str, after: str, adapter: Adapter, warning: str | None
) -> Exchanged:
    return Exchanged(
        source=str(source),
        output=str(output),
        from_format=before,
        to_format=after,
        layers=len(adapter.config.modules),
        tensors=len(adapter.tensors),
        base=adapter.config.base.id,
        warning=warning,
    )
