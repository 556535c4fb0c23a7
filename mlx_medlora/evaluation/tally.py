"""Answered cases as arrays, and the six counts that most figures are made of.

Letters: N cases, K patients (a case without a `patient_id` is its own), 6 cells: the right answer
(ERROR, CORRECT) by the answer given (ERROR, CORRECT, unreadable).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlx_medlora.evaluation.results import Confusion, Prediction

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CELLS = 6
_SAID = {"ERROR": 0, "CORRECT": 1, None: 2}


@dataclass(frozen=True)
class Tally:
    """Cases of one group: `error` (N,) where the right answer is ERROR; `said` (N,) the column of the answer
    given; `p` (N,) the probability of ERROR, None for written answers; `patient` (N,) numbers from 0.
    """

    error: Bools
    said: Ints
    p: Floats | None
    patient: Ints

    @classmethod
    def of(cls, predictions: Sequence[Prediction]) -> Tally:
        """The arrays of these answers."""
        known = [p.p_error for p in predictions if p.p_error is not None]
        return cls(
            error=np.array([p.label == "ERROR" for p in predictions], bool),
            said=np.array([_SAID[p.predicted] for p in predictions], np.int64),
            p=np.array(known, np.float64) if known and len(known) == len(predictions) else None,
            patient=patient_numbers([p.patient_id for p in predictions]),
        )

    def where(self, mask: Bools) -> Tally:
        """The cases that `mask` (N,) picks."""
        patient = np.unique(self.patient[mask], return_inverse=True)[1]
        p = None if self.p is None else self.p[mask]
        return Tally(self.error[mask], self.said[mask], p, patient.reshape(-1))

    @property
    def n(self) -> int:
        """How many cases."""
        return len(self.error)

    @property
    def patients(self) -> int:
        """How many patients (K)."""
        return int(self.patient.max()) + 1 if self.n else 0

    @property
    def repeated(self) -> bool:
        """Whether a patient has several cases here."""
        return self.patients < self.n

    @property
    def both_classes(self) -> bool:
        """Whether there are cases of either right answer."""
        return bool(self.error.any()) and not bool(self.error.all())

    @property
    def cell(self) -> Ints:
        """(N,) each case's cell."""
        return np.where(self.error, 0, 3) + self.said

    def counts(self) -> Ints:
        """(6,) cases in each cell."""
        return np.bincount(self.cell, minlength=CELLS)

    def counts_by_patient(self) -> Ints:
        """(K, 6) cases in each cell."""
        flat = np.bincount(self.patient * CELLS + self.cell, minlength=self.patients * CELLS)
        return flat.reshape(self.patients, CELLS)


def patient_numbers(ids: Sequence[str | None]) -> Ints:
    """(N,) each case's patient, numbered from 0; a case without an id is its own."""
    names = [("", row) if name is None else (name, -1) for row, name in enumerate(ids)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def confusion(counts: Ints) -> Confusion:
    """(6,) counts by their names."""
    names = list(Confusion.model_fields)
    return Confusion(**{name: int(count) for name, count in zip(names, counts, strict=True)})
