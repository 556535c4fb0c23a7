"""Settings: one typed source for a default, its help text and its check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlx_medlora.errors import InputError
from mlx_medlora.yamltext import read_mapping


class StrictModel(BaseModel):
    """Settings that refuse unknown keys and do not change after they are made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def validate(model_class: type[Model], values: dict[str, Any], *, path: Path | None = None) -> Model:
    """Build `model_class` from `values`; every fault is listed at once in one InputError."""
    try:
        return model_class.model_validate(values)
    except ValidationError as error:
        raise InputError(describe(error), path=path) from error


def validate_yaml(model_class: type[Model], path: Path) -> tuple[Model, dict[str, Any]]:
    """`model_class` from a YAML file, and the values that stand there.

    Raises InputError as `read_mapping`, and for unknown keys and wrong values with the line of the first.
    """
    values, lines = read_mapping(path)
    try:
        return model_class.model_validate(values), values
    except ValidationError as error:
        named = [fault["loc"][0] for fault in error.errors() if fault["loc"]]
        wrong = [lines[name] for name in named if name in lines]
        raise InputError(describe(error), path=path, line=min(wrong, default=None)) from error


def _plain(value: object) -> str:
    return f"{value!r:.80}"


def describe(
    error: ValidationError,
    *,
    value: Callable[[object], str] = _plain,
    name: Callable[[str], str] = repr,
    whole: str = "settings",
) -> str:
    """One sentence for each fault: the key, what was wrong and the value that was given.

    `value` and `name` write a given value, and a key that is not known; `whole` names what all of it is.
    """
    parts = []
    for fault in error.errors():
        key = ".".join(str(piece) for piece in fault["loc"]) or whole
        if fault["type"] == "extra_forbidden":
            parts.append(f"unknown option {name(key)}")
        elif fault["type"] == "missing":
            parts.append(f"{key} is missing")
        else:
            parts.append(f"{key}: {fault['msg']} (got {value(fault['input'])})")
    return "; ".join(parts)
