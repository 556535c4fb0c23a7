"""An adapter directory of any kind: this toolkit's, PEFT's, mlx-lm's or mlx-vlm's, told by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.tensorfiles import refused_pickle
from mlx_medlora.lora.adapter import CONFIG, WEIGHTS, Adapter, apply, read_adapter, refuse_other_base
from mlx_medlora.lora.foreign import convention, read_foreign
from mlx_medlora.lora.peft import PICKLE, read_peft
from mlx_medlora.lora.peft import WEIGHTS as PEFT_WEIGHTS

Format = Literal["mlx-medlora", "PEFT", "mlx-lm", "mlx-vlm"]


def detect(directory: Path) -> Format:
    """Whose adapter `directory` holds. Raises InputError where it holds none."""
    if not directory.is_dir():
        raise InputError("no such adapter directory", path=directory, hint="`mlx-medlora train` writes one.")
    if any((directory / name).is_file() for name in (PEFT_WEIGHTS, PICKLE)):
        return "PEFT"
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            if name == WEIGHTS and (pickle := refused_pickle(directory)):
                raise pickle
            raise InputError(f"not an adapter directory: it has no {name}", path=directory)
    raw = read_json(directory / CONFIG)
    if isinstance(raw, dict) and "format_version" in raw:
        return "mlx-medlora"
    return convention(directory).writer


def read_any(directory: Path, model: Base) -> Adapter:
    """Read an adapter of any kind for `model`, which gives names and shapes and is not touched.

    Raises InputError, as the readers of each kind, for whatever does not bind or is not known here.
    """
    kind = detect(directory)
    if kind == "PEFT":
        return read_peft(directory, model)
    return read_adapter(directory, model) if kind == "mlx-medlora" else read_foreign(directory, model)


def load_any(
    model: Base, directory: Path, *, fingerprint: str | None = None, source: str | None = None
) -> list[str]:
    """Give `model` the adapter in `directory`, in place; return the names of the layers bound.

    `fingerprint` and `source` are the model's (see `adapter.BaseModelId`); adapters of other tools do
    not say theirs, so their shapes alone are checked. Raises InputError before the model is touched.
    """
    adapter = read_any(directory, model)
    if fingerprint is not None:
        refuse_other_base(adapter.config.base, fingerprint, source, directory)
    return apply(model, adapter)
