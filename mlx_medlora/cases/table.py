"""A person's table of cases: columns in, checked cases out, or every bad row named at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, field_validator, model_validator

from mlx_medlora import privacy
from mlx_medlora.cases.card import INSTRUCTION, TEXT_INSTRUCTION, Label, answer, case_text
from mlx_medlora.cases.schema import Case, Metadata, Severity, Text, faults, refuse_escape
from mlx_medlora.cases.subgroups import subgroups
from mlx_medlora.cases.table_files import CSV_KINDS, MAX_COLUMNS, MOST_FAULTS, BadRow, Row, read_rows
from mlx_medlora.errors import InputError

REQUIRED_COLUMNS = ("id", "modality", "image", "age", "gender", "finding", "treatment", "label")
OPTIONAL_COLUMNS = ("error_type", "severity", "patient_id")
UNSPECIFIED = "unspecified"  # the error type of an ERROR row whose table gives none

_NEVER_EMPTY = ("id", "modality", "finding", "treatment", "label")
_LISTED_FAULTS = 20


def _plain(value: object) -> object:
    """JSON numbers as text: ids and ages are often written without quotes."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


PlainText = Annotated[Text, BeforeValidator(_plain)]


class TableRow(BaseModel):
    """One row in the table's columns; age, gender and further columns are kept as metadata."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    id: PlainText
    modality: Text
    image: tuple[str, ...] = ()
    age: PlainText | None = None
    gender: Text | None = None
    finding: Text
    treatment: Text
    label: Label
    error_type: Text | None = None
    severity: Severity = "none"
    patient_id: PlainText | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, row: Any) -> Any:
        """An empty cell is an absent one."""
        return {name: value for name, value in row.items() if not isinstance(value, str) or value.strip()}

    @field_validator("image", mode="before")
    @classmethod
    def _images(cls, value: object) -> object:
        parts = value.split(";") if isinstance(value, str) else [] if value is None else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError("expected a file name, several parted by ';', or a list of names")
        return tuple(part.strip() for part in parts if part.strip())

    @field_validator("label", mode="before")
    @classmethod
    def _label(cls, value: object) -> object:
        word = value.strip().upper() if isinstance(value, str) else value
        if word not in ("ERROR", "CORRECT"):
            raise ValueError("the label must be ERROR or CORRECT")
        return word

    @field_validator("severity", mode="before")
    @classmethod
    def _severity(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else "none" if value is None else value

    def case(self) -> Case:
        """The row in the dataset card's fields; its images are named as the table names them.

        Age and gender are in its text and, for figures by them, in its metadata.
        Raises ValueError for a CORRECT row with an error type or a severity.
        """
        kind = (self.error_type or "none").lower()
        if self.label == "CORRECT" and (kind != "none" or self.severity != "none"):
            raise ValueError("a CORRECT case can have no error_type and no severity")
        if self.label == "ERROR" and kind == "none":
            kind = UNSPECIFIED
        known = {"modality": self.modality, "error_type": kind, "severity": self.severity}
        told = subgroups(self.age, self.gender)
        return Case(
            id=self.id,
            instruction=INSTRUCTION if self.image else TEXT_INSTRUCTION,
            input=case_text(self.age or "", self.gender or "", self.finding, self.treatment),
            output=answer(self.label, kind, image=bool(self.image)),
            image_path=_one_or_list(self.image),
            patient_id=self.patient_id,
            metadata=Metadata.model_validate({**told, **(self.model_extra or {}), **known}),
        )


@dataclass(frozen=True)
class SourceCase:
    """A case of a table, with the files that its images are copied from."""

    case: Case
    images: tuple[Path, ...]
    line: int


def read_table(path: Path, find_image: Callable[[str], Path]) -> list[SourceCase]:
    """Read and check every row; `find_image` turns an image's name into its file, or raises InputError.

    Raises one InputError that lists all bad rows with their lines.
    """
    privacy.cases_read()
    rows = read_rows(path)
    _check_columns(rows, path)
    sources: list[SourceCase] = []
    problems: list[tuple[int, str]] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        if len(problems) == MOST_FAULTS:
            break
        try:
            case = _parse(row)
            if case.id in lines:
                raise ValueError(f"the id {case.id!r} was used on line {lines[case.id]} already")
            lines[case.id] = line
            sources.append(SourceCase(case, tuple(find_image(name) for name in case.image_paths), line))
        except ValidationError as error:
            problems.append((line, faults(error)))
        except (InputError, ValueError) as error:
            problems.append((line, str(error)))
    _raise_all(problems, path)
    return sources


def is_card_row(row: object) -> bool:
    """Whether a row is written in the dataset card's fields already."""
    return isinstance(row, dict) and "input" in row and "output" in row


def _parse(row: Any) -> Case:
    if isinstance(row, BadRow):
        raise ValueError(row.reason)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    if is_card_row(row):
        return Case.model_validate(row)
    parsed = TableRow.model_validate(row)
    for name in parsed.image:
        refuse_escape(name)
    return parsed.case()


def _check_columns(rows: list[Row], path: Path) -> None:
    """Refuse a table that lacks a column, or that misspells one which would then be ignored."""
    names = {name for _, row in rows if isinstance(row, dict) and not is_card_row(row) for name in row}
    if not names:
        return
    if len(names) > MAX_COLUMNS:
        raise InputError(f"the rows name {len(names):,} different columns", path=path, line=rows[0][0])
    needed = REQUIRED_COLUMNS if path.suffix.lower() in CSV_KINDS else _NEVER_EMPTY
    lacking = [name for name in needed if name not in names]
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    absent = [name for name in known if name not in names]
    for name in sorted(names - set(known)):
        meant = difflib.get_close_matches(name, absent, n=1, cutoff=0.75)
        if meant:
            raise InputError(f"unknown column {name!r}; did you mean {meant[0]!r}?", path=path, line=1)
    if lacking:
        hint = f"Columns: {', '.join(REQUIRED_COLUMNS)}; optional: {', '.join(OPTIONAL_COLUMNS)}."
        raise InputError(f"the table lacks the column {_listed(lacking)}", path=path, line=1, hint=hint)


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _raise_all(problems: list[tuple[int, str]], path: Path) -> None:
    if not problems:
        return
    if len(problems) == 1:
        line, text = problems[0]
        raise InputError(text, path=path, line=line, hint=privacy.hint(text))
    listed = [f"  line {line}: {text}" for line, text in problems[:_LISTED_FAULTS]]
    if len(problems) > _LISTED_FAULTS:
        listed.append(f"  and {len(problems) - _LISTED_FAULTS} more")
    count = f"{len(problems)}{' or more' if len(problems) == MOST_FAULTS else ''}"
    message = "\n".join([f"{count} rows are wrong:", *listed])
    raise InputError(message, path=path, hint=privacy.hint(message))


def _one_or_list(names: tuple[str, ...]) -> str | list[str] | None:
    if not names:
        return None
    return names[0] if len(names) == 1 else list(names)
