"""PEFT's `adapter_config.json`: what it means for our layers, and what is refused by name.

Matching rules are PEFT's own (`check_target_module_exists`, `get_pattern_key`, 0.21).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json
from mlx_medlora.settings import validate

_HARMLESS = {
    "auto_mapping",
    "corda_config",
    "eva_config",
    "inference_mode",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
_MOST_PATTERNS = 4000  # and characters of one
_MOST_REPEATS = 10_000  # a{100}{100} takes as much memory as it says
_KEEPS_BASE = (True, False, None, "gaussian", "orthogonal", "eva", "default")


class PeftConfig(BaseModel):
    """The settings of a PEFT LoRA adapter that change what it computes."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    r: int = Field(8, gt=0)
    lora_alpha: float = Field(8, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True

    _seconds: float = PrivateAttr(1.0)  # left for matching patterns; sound ones take a hundredth

    def targets(self, modules: Iterable[str]) -> list[str]:
        """Those of `modules`, named as PEFT saw them, that carry LoRA."""
        return [name for name in modules if self._targeted(name)]

    def rank_of(self, module: str) -> int:
        """The rank of one module, by the first pattern that fits."""
        return self._by_pattern(self.rank_pattern, module, self.r)

    def alpha_of(self, module: str) -> float:
        """The alpha of one module, by the first pattern that fits."""
        return self._by_pattern(self.alpha_pattern, module, self.lora_alpha)

    def _targeted(self, name: str) -> bool:
        if self.exclude_modules and self._named(self.exclude_modules, name):
            return False
        if any(self._match(rf"(^|.*\.){saved}($|\..*)", name) for saved in self.modules_to_save or ()):
            return False
        if self.target_modules == "all-linear":
            return True
        targets = self.target_modules or []
        if isinstance(targets, str) or name in targets:
            return self._named(targets, name)
        return self._named(targets, name) and self._in_chosen_layer(name)

    def _in_chosen_layer(self, name: str) -> bool:
        chosen = self.layers_to_transform
        if chosen is None or chosen == []:
            return True
        patterns = self.layers_pattern or [r"[^.]*"]
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = self._match(rf"(?:^|.*?\.){pattern}\.(?P<index>\d+)\.", name)
            if found:
                index = int(found["index"])
                return index == chosen if isinstance(chosen, int) else index in chosen
        return False

    def _named(self, targets: str | list[str], name: str) -> bool:
        """A string is a regular expression for the whole name, a list holds ends of names."""
        if isinstance(targets, str):
            return self._match(rf"(?:{targets})\Z", name) is not None
        return any(f".{name}".endswith(f".{target}") for target in targets)

    def _by_pattern(self, patterns: dict[str, Any], module: str, usual: Any) -> Any:
        for pattern, value in patterns.items():
            if self._match(rf"(.*\.)?({pattern})$", module):
                return value
        return usual

    def _match(self, pattern: str, name: str) -> Any:
        """As `re.match`; all together may take seconds, since a pattern can be written to take years.

        Raises InputError where they take longer.
        """
        start = time.process_time()
        try:
            found = regex.match(pattern, name, timeout=max(self._seconds, 0.001))
        except TimeoutError as error:
            raise InputError(f"the pattern {pattern!r:.80} takes too long to be matched") from error
        self._seconds -= time.process_time() - start
        return found


def read_peft_config(path: Path) -> PeftConfig:
    """Read a PEFT `adapter_config.json`.

    Raises InputError for another kind of adapter, and by name for each setting that changes the
    computation in a way that is not known here: nothing is dropped.
    """
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise InputError("expected a JSON object", path=path, line=1)
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise InputError(f"peft_type is {kind!r}; only LORA adapters can be read", path=path)
    given = {name: value for name, value in raw.items() if value is not None}
    config = validate(PeftConfig, given, path=path)
    _refuse_unknown(config, path)
    _refuse_bad_patterns(config, path)
    return config


def _refuse_unknown(config: PeftConfig, path: Path) -> None:
    extra = config.model_extra or {}
    odd = [f"{name} = {value!r:.60}" for name, value in extra.items() if value and name not in _HARMLESS]
    if config.init_lora_weights not in _KEEPS_BASE:
        odd.append(f"init_lora_weights = {config.init_lora_weights!r} (it changes the base's own weights)")
    saved = [name for name in config.modules_to_save or () if name not in ("embed_tokens", "lm_head")]
    if saved:
        odd.append(f"modules_to_save = {saved!r}")
    if odd:
        raise InputError(
            f"this adapter uses what is not known here: {'; '.join(odd)}",
            path=path,
            hint="Merge it with PEFT's merge_and_unload, then convert the merged model.",
        )


def _refuse_bad_patterns(config: PeftConfig, path: Path) -> None:
    patterns = [*config.rank_pattern, *config.alpha_pattern, *(config.modules_to_save or ())]
    for given in (config.target_modules, config.exclude_modules):
        patterns += [given] if isinstance(given, str) else []
    layers = config.layers_pattern or []
    patterns += [layers] if isinstance(layers, str) else layers
    listed = [given for given in (config.target_modules, config.exclude_modules) if isinstance(given, list)]
    if max(map(len, [patterns, *listed])) > _MOST_PATTERNS:
        raise InputError(f"names more than {_MOST_PATTERNS:,} modules or patterns", path=path)
    for pattern in patterns:
        repeats = prod(int(most) for most in re.findall(r"(\d{1,99})\s*\}", pattern) if int(most))
        if repeats > _MOST_REPEATS or len(pattern) > _MOST_PATTERNS:
            raise InputError(f"the pattern {pattern!r:.80} is too long, or repeats too much", path=path)
        try:
            re.compile(pattern)
            regex.compile(pattern)
        except (re.error, regex.error, OverflowError, RecursionError, MemoryError) as error:
            raise InputError(f"{pattern!r:.80} is not a regular expression: {error}", path=path) from error
