"""The model card of a PEFT adapter, from its own settings, whoever made it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from mlx_medlora.gemma.tensorfiles import read_header
from mlx_medlora.lora.adapter import CONFIG
from mlx_medlora.lora.model_card import Made, card_of, form_of, shown
from mlx_medlora.lora.peft import weights_file
from mlx_medlora.lora.peft_config import PeftConfig, read_peft_config
from mlx_medlora.lora.provenance import RUN, TRAINING_DATA, Provenance, read_provenance
from mlx_medlora.marks import DataSource

_LONGEST = 200


def peft_card(directory: Path, model: str, base: Sequence[DataSource] = ()) -> str:
    """The card of the PEFT adapter in `directory`; `model` is its base where it names none.

    `base` are the marks of what the base's own weights were trained on.

    Raises InputError where it is none, or its settings are not known here.
    """
    header, _ = read_header(weights_file(directory))
    config = read_peft_config(directory / CONFIG)
    extra = config.model_extra or {}
    made = Made(
        base=_base(config.base_model_name_or_path or model),
        layers=sum(name.endswith((".lora_A.weight", ".lora_A.default.weight")) for name in header),
        target=shown(_targets(config)),
        rank=_with_patterns(config),
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        form=form_of(dora=config.use_dora, rslora=config.use_rslora),
        saved=shown(", ".join(config.modules_to_save or ())),
        writer=shown(f"PEFT {extra.get('peft_version', '')}".strip()),
    )
    recorded = any((directory / name).exists() for name in (RUN, TRAINING_DATA))
    about = read_provenance(directory) if recorded else Provenance(contains=())
    return card_of(made, about.beside(base), {})


def _base(name: str) -> str:
    """A hub id as it stands, of a path its last part; letters that could be markup or YAML go."""
    local = name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    last = PureWindowsPath(name).name if "\\" in name else PurePosixPath(name).name
    kept = re.sub(r"[^A-Za-z0-9._/-]+", "-", last if local else name)
    return kept.strip("-")[:_LONGEST] or "unknown"


def _targets(config: PeftConfig) -> str:
    given = config.target_modules
    if isinstance(given, str):
        return given
    return ", ".join(given or ()) or "not stated"


def _with_patterns(config: PeftConfig) -> str:
    several = len({*config.rank_pattern, *config.alpha_pattern})
    return f"{config.r} ({several} patterns of layers have their own)" if several else str(config.r)
