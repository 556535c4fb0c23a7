"""Settings: one typed source for a default, its help text and its check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from mlx_medlora.errors import InputError


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

    Raises InputError as `load_yaml`, and for unknown keys and wrong values with the line of the first.
    """
    values = load_yaml(path)
    try:
        return model_class.model_validate(values), values
    except ValidationError as error:
        lines = _key_lines(path)
        named = [fault["loc"][0] for fault in error.errors() if fault["loc"]]
        wrong = [lines[name] for name in named if name in lines]
        raise InputError(describe(error), path=path, line=min(wrong, default=None)) from error


def _key_lines(path: Path) -> dict[int | str, int]:
    """Option name -> its line in a YAML mapping that `load_yaml` took."""
    import yaml

    node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    return {} if node is None else {key.value: key.start_mark.line + 1 for key, _ in node.value}


def _plain(value: object) -> str:
    return f"{value!r:.80}"


def describe(
    error: ValidationError, *, value: Callable[[object], str] = _plain, name: Callable[[str], str] = repr
) -> str:
    """One sentence for each fault: the key, what was wrong and the value that was given.

    `value` and `name` write a given value, and a key that is not known.
    """
    parts = []
    for fault in error.errors():
        key = ".".join(str(piece) for piece in fault["loc"]) or "settings"
        if fault["type"] == "extra_forbidden":
            parts.append(f"unknown option {name(key)}")
        elif fault["type"] == "missing":
            parts.append(f"{key} is missing")
        else:
            parts.append(f"{key}: {fault['msg']} (got {value(fault['input'])})")
    return "; ".join(parts)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping with plain values only; tags that build objects are refused.

    Raises InputError with the line for malformed YAML, duplicate keys or anything but a mapping.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8-sig")
        _refuse_duplicate_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        values = yaml.safe_load(text)
    except FileNotFoundError as error:
        raise InputError("no such file", path=path) from error
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 text (byte {error.start})", path=path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "malformed"
        line = None if mark is None else mark.line + 1
        raise InputError(f"not valid YAML: {problem}", path=path, line=line) from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError("expected a mapping of option names to values", path=path, line=1)
    return values


def _refuse_duplicate_keys(node: Any, path: Path) -> None:
    seen: set[str] = set()
    for key, _ in getattr(node, "value", None) or [] if getattr(node, "id", "") == "mapping" else []:
        if key.value in seen:
            raise InputError(f"option {key.value!r} is given twice", path=path, line=key.start_mark.line + 1)
        seen.add(key.value)
