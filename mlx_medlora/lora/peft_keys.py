"""PEFT's tensor names and ours, for every generation of transformers' Gemma 3.

| transformers | text stack | vision tower |
|---|---|---|
| up to 4.51 | `language_model.model.layers` | `vision_tower.vision_model` |
| 4.52 to 5.5 | `model.language_model.layers` | `model.vision_tower.vision_model` |
| from 5.6 | `model.language_model.layers` | `model.vision_tower` |
| text-only | `model.layers` | - |

Each stands behind `base_model.model.`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlx_medlora.gemma import names

PREFIX = "base_model.model."
Kind = Literal["lora_a", "lora_b", "magnitude", "lora_bias", "bias", "whole"]
_ENDINGS: dict[str, Kind] = {
    ".lora_A.weight": "lora_a",
    ".lora_B.weight": "lora_b",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
    ".lora_B.bias": "lora_bias",
    ".base_layer.bias": "bias",
    ".bias": "bias",
    ".modules_to_save.weight": "whole",
    ".weight": "whole",
}
_WHOLE = ("embed_tokens", "lm_head")


@dataclass(frozen=True)
class Key:
    """What a PEFT tensor is: the layer's full name here and the part of it."""

    module: str
    kind: Kind


def parse(key: str, *, text_only: bool) -> Key | None:
    """What the tensor `key` of a PEFT file is; None for one that is no part of an adapter known here."""
    if not key.startswith(PREFIX):
        return None
    name = key.removeprefix(PREFIX)
    ending = next((ending for ending in _ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return None
    module, kind = name.removesuffix(ending), _ENDINGS[ending]
    if kind == "whole" and module.rpartition(".")[2] not in _WHOLE:
        return None
    return Key(module_here(module, text_only=text_only), kind)


def module_here(module: str, *, text_only: bool) -> str:
    """The full name here of a module that transformers names `module`, in any generation."""
    if text_only:
        return module
    found = names.canonical(f"{module}.weight", text_only=False)
    here = (found or module).removesuffix(".weight")
    return names.head(text_only=False) if here == "lm_head" else here


def module_there(module: str, *, before_4_52: bool = False, old_vision: bool = True) -> str:
    """The name that transformers gives a module here: of 4.52 and later, or before.

    `old_vision` keeps `vision_model` in the tower's names, which every release from 4.52 to 5.23 reads;
    from 5.6 on the module itself is named without it.
    """
    if module == names.head(text_only=False):
        return module if before_4_52 else "lm_head"
    if before_4_52:
        return module
    if module.startswith(names.TEXT):
        return "model.language_model." + module.removeprefix(names.TEXT)
    if module.startswith(names.TOWER):
        tower = names.TOWER if old_vision else "vision_tower."
        return "model." + tower + module.removeprefix(names.TOWER)
    return module


def file_key(module: str, kind: Kind, *, before_4_52: bool = False, adapted: bool = True) -> str:
    """The key under which an exported tensor is written; `adapted`: the module carries LoRA."""
    endings: dict[Kind, str] = {
        "lora_a": ".lora_A.weight",
        "lora_b": ".lora_B.weight",
        "magnitude": ".lora_magnitude_vector",
        "lora_bias": ".lora_B.bias",
        "bias": ".base_layer.bias" if adapted else ".bias",
        "whole": ".weight",
    }
    return PREFIX + module_there(module, before_4_52=before_4_52) + endings[kind]


@dataclass(frozen=True)
class Generation:
    """How the model that PEFT wrapped named its modules: what targets and patterns were written for."""

    before_4_52: bool
    old_vision: bool

    @classmethod
    def of(cls, keys: list[str]) -> Generation:
        """Told from a file's keys; where nothing tells, the one before 5.6."""
        starts = (f"{PREFIX}language_model.", f"{PREFIX}vision_tower.", f"{PREFIX}multi_modal_projector.")
        new_vision = any("vision_tower." in key and "vision_tower.vision_model." not in key for key in keys)
        return cls(any(key.startswith(starts) for key in keys), not new_vision)

    def name(self, module: str) -> str:
        """The name that the wrapped model gave to a module here."""
        return module_there(module, before_4_52=self.before_4_52, old_vision=self.old_vision)
