"""Command-line flags made from a settings class: its fields give name, type, default and help."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlx_medlora.settings import Model, validate, validate_yaml

Command = Callable[..., None]


def flags_from(settings: type[BaseModel]) -> Callable[[Command], Command]:
    """Give a command that takes **flags one optional flag for each setting; None means not given."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        made = [_flag(name, field) for name, field in settings.model_fields.items()]
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in own[:-1] + made + own[-1:]]

        def wrapper(**given: Any) -> None:
            command(**given)

        wrapper.__doc__ = command.__doc__
        wrapper.__name__ = command.__name__
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def collect(
    settings: type[Model],
    flags: dict[str, Any],
    config: Path | None = None,
    preset: dict[str, Any] | None = None,
) -> Model:
    """Settings from `preset`, over it the YAML file `config`, and over both the `flags` that were given.

    Raises InputError naming every unknown key and every value out of range.
    """
    values = {} if config is None else validate_yaml(settings, config)[1]  # the file's own faults come first
    given = {name: value for name, value in flags.items() if value is not None}
    return validate(settings, (preset or {}) | values | given)


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    kind, addition = _plain_type(field.annotation)
    option = "--" + name.replace("_", "-")
    declared = f"{option}/--no-{option[2:]}" if kind is bool else option
    shown = ",".join(field.default) if isinstance(field.default, tuple) else field.default
    default = "" if field.default is None else f" [default: {shown}]"
    help_text = f"{field.description or ''}{addition}{default}"
    annotation: Any = Annotated[kind | None, typer.Option(declared, help=help_text)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _plain_type(annotation: Any) -> tuple[Any, str]:
    """The type a flag is read as, and what its help must add: tuples are written with commas."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is tuple:
        return str, " (separated by commas)"
    if get_origin(annotation) is Literal or annotation in (int, float, str, bool):
        return annotation, ""
    raise TypeError(f"no flag can be made from {annotation}")
