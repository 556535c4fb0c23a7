"""YAML from strangers: one mapping of plain values, without tags, anchors and deep nesting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlx_medlora.errors import InputError
from mlx_medlora.textfiles import read_text

MAX_BYTES = 64 * 1024
MAX_DEPTH = 8


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML file's options, and the line of each; an empty file has none.

    Raises InputError with the line for malformed YAML, tags that build objects, anchors and aliases (a few
    lines of them stand for gigabytes), duplicate keys, deep nesting, and anything but a mapping.
    """
    import yaml

    text = read_text(path, MAX_BYTES)
    try:
        _refuse_odd_events(text, path)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines = {} if node is None else _key_lines(node, path)
        values = {} if node is None else _constructed(node, path)
    except yaml.YAMLError as error:
        raise _malformed(error, text, path) from error
    return values, lines


def _refuse_odd_events(text: str, path: Path) -> None:
    """Look at the parts without building anything from them."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        mark = event.start_mark
        line = None if mark is None else mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise InputError(
                "anchors and aliases are not read here; write the value out", path=path, line=line
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise InputError("YAML is nested too deeply", path=path, line=line)


def _key_lines(node: Any, path: Path) -> dict[str, int]:
    if node.id != "mapping":
        raise InputError("expected a mapping of option names to values", path=path, line=1)
    lines: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar" or key.tag != "tag:yaml.org,2002:str":
            raise InputError("expected the name of an option", path=path, line=line)
        if key.value in lines:
            raise InputError(f"option {key.value!r:.60} is given twice", path=path, line=line)
        lines[key.value] = line
    return lines


def _constructed(node: Any, path: Path) -> dict[str, Any]:
    """The mapping's values; one that only looks like a date or a number is a fault of its line."""
    import yaml

    values: dict[str, Any] = {}
    for key, value in node.value:
        loader = yaml.SafeLoader("")
        try:
            values[key.value] = loader.construct_document(value)
        except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
            message = f"{key.value}: not a value: {error}"
            raise InputError(message, path=path, line=value.start_mark.line + 1) from error
        finally:
            loader.dispose()
    return values


def _malformed(error: Any, text: str, path: Path) -> InputError:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "malformed"
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    line = None if mark is None else mark.line + 1
    if line is None and isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    return InputError(f"not valid YAML: {problem}", path=path, line=line)
