"""Counts of a dataset, whole and by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from mlx_medlora.cases.schema import Case


class Counts(BaseModel):
    """How many cases there are, and of which kinds."""

    cases: int
    images: int  # distinct files
    text_only: int
    patients: int  # distinct patient_id; 0 where none is given
    modality: dict[str, int]
    label: dict[str, int]
    error_type: dict[str, int]
    severity: dict[str, int]


class Statistics(Counts):
    """The counts of all cases, and of each split."""

    splits: dict[str, Counts]


def count(cases: Sequence[Case]) -> Counts:
    """Count cases; both labels are always named, other kinds where they occur."""
    labels = Counter(case.label for case in cases)
    return Counts(
        cases=len(cases),
        images=len({path for case in cases for path in case.image_paths}),
        text_only=sum(not case.image_paths for case in cases),
        patients=len({case.patient_id for case in cases if case.patient_id}),
        modality=_tally(case.metadata.modality for case in cases),
        label={"CORRECT": labels["CORRECT"], "ERROR": labels["ERROR"]},
        error_type=_tally(case.metadata.error_type for case in cases),
        severity=_tally(case.metadata.severity for case in cases),
    )


def statistics(splits: Mapping[str, Sequence[Case]]) -> Statistics:
    """Count all cases and each split's."""
    whole = count([case for cases in splits.values() for case in cases])
    return Statistics(**whole.model_dump(), splits={name: count(cases) for name, cases in splits.items()})


def _tally(values: Iterable[str]) -> dict[str, int]:
    """Counts by name, in the alphabet's order."""
    return dict(sorted(Counter(values).items()))
