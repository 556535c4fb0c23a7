"""A case: one row of a dataset, with the dataset card's fields."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from mlx_medlora import privacy
from mlx_medlora.cases.card import Label
from mlx_medlora.errors import InputError
from mlx_medlora.settings import describe

Severity = Literal["none", "low", "moderate", "high", "critical"]
Text = Annotated[str, StringConstraints(strict=True, strip_whitespace=True, min_length=1)]


def _paths(value: object) -> object:
    """One path or several; said in one sentence, where pydantic's union would name each of its branches."""
    paths = value if isinstance(value, list) else [value]
    if value is None or (paths and all(isinstance(path, str) and path.strip() for path in paths)):
        return value
    raise ValueError("expected a path, or a list of at least one path")


Paths = Annotated[str | list[str] | None, BeforeValidator(_paths)]

_ANSWER = re.compile(r"(ERROR|CORRECT) - \S")


class Metadata(BaseModel):
    """What is known about a case beside its text; fields not named here are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, hide_input_in_errors=True)

    modality: Text
    error_type: Text = "none"
    severity: Severity = "none"

    @field_validator("modality", "error_type")
    @classmethod
    def _lower(cls, value: str) -> str:
        return value.lower()


class Case(BaseModel):
    """One clinical case: what is asked about which images, and the right answer.

    `image_path` is relative to the dataset directory, with forward slashes; `image_file` is its last part.
    Rows without an image are text-only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: Text
    instruction: Text
    input: Text
    output: Text
    image_file: Paths = None
    image_path: Paths = None
    patient_id: Text | None = None
    metadata: Metadata

    _source: tuple[str, int] | None = PrivateAttr(default=None)  # file name and line, for messages

    @model_validator(mode="before")
    @classmethod
    def _path_from_file(cls, row: Any) -> Any:
        """A row that names only `image_file` means a file in the dataset's `images/`."""
        if isinstance(row, dict) and row.get("image_path") is None:
            files = row.get("image_file")
            if isinstance(files, str):
                return {**row, "image_path": f"images/{files}"}
            if isinstance(files, list) and all(isinstance(name, str) for name in files):
                return {**row, "image_path": [f"images/{name}" for name in files]}
        return row

    @field_validator("output")
    @classmethod
    def _answer(cls, value: str) -> str:
        if not _ANSWER.match(value):
            raise ValueError("the answer must begin with 'ERROR - ' or 'CORRECT - ' and a reason")
        return value

    @field_validator("image_path")
    @classmethod
    def _inside(cls, value: str | list[str] | None) -> str | list[str] | None:
        for path in as_tuple(value):
            refuse_escape(path)
        return value

    @property
    def label(self) -> Label:
        """The first word of the answer."""
        return "ERROR" if self.output.startswith("ERROR") else "CORRECT"

    @property
    def image_paths(self) -> tuple[str, ...]:
        """The images in reading order, relative to the dataset directory; empty for a text-only case."""
        return as_tuple(self.image_path)

    @property
    def line(self) -> int | None:
        """The row's line in its file, from 1; None where it was not read from a file."""
        return None if self._source is None else self._source[1]

    @property
    def where(self) -> str:
        """The row's place, `train.jsonl:7`, or the case's id where it was not read from a file."""
        return self.id if self._source is None else f"{self._source[0]}:{self._source[1]}"

    def row(self) -> dict[str, Any]:
        """The case as a JSON object with the card's fields; absent optional fields are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def as_tuple(value: str | list[str] | None) -> tuple[str, ...]:
    """One path, several or none as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def refuse_escape(path: str) -> None:
    """Raise ValueError for a path that is absolute or climbs out with `..`, on any operating system."""
    pure, windows = PurePosixPath(path), PureWindowsPath(path)
    if pure.is_absolute() or windows.drive or windows.root:
        raise ValueError(f"the image path {privacy.named(path)} is absolute; it must be relative")
    if ".." in pure.parts or ".." in windows.parts or "\0" in path:
        raise ValueError(f"the image path {privacy.named(path)} leaves its directory")


def faults(error: ValidationError) -> str:
    """Every fault of a row in one line, in the words of a table; values as far as they may be shown."""
    told = describe(error, value=privacy.shown, name=privacy.named, whole="the row")
    return told.replace("unknown option", "unknown field").replace("Value error, ", "")


def parse_case(row: object, path: object, line: int) -> Case:
    """Check one JSON value read from `path` at `line`. Raises InputError naming every wrong field."""
    if not isinstance(row, dict):
        raise InputError(f"expected an object, got {type(row).__name__}", path=str(path), line=line)
    try:
        case = Case.model_validate(row)
    except ValidationError as error:
        told = faults(error)
        raise InputError(told, path=str(path), line=line, hint=privacy.hint(told)) from error
    case._source = (str(path).replace("\\", "/").rsplit("/", 1)[-1], line)
    return case
