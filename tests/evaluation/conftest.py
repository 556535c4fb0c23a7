"""Answered cases without a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from predicted import prediction

from mlx_medlora.evaluation.results import Prediction

Make = Callable[..., list[Prediction]]


@pytest.fixture
def table() -> Make:
    """Make cases from (right answer, given answer, how many) rows; more fields are the same for all."""

    def make(rows: list[tuple[str, str | None, int]], **more: Any) -> list[Prediction]:
        flat = [(label, said) for label, said, count in rows for _ in range(count)]
        return [prediction(number, *row, **more) for number, row in enumerate(flat)]

    return make


@pytest.fixture
def scored() -> Make:
    """Make cases from (right answer, probability of ERROR) rows."""

    def make(rows: list[tuple[str, float]], **more: Any) -> list[Prediction]:
        fields = {"method": "score", "text": None, "threshold": 0.5, **more}
        return [
            prediction(number, label, "ERROR" if p >= 0.5 else "CORRECT", p_error=p, **fields)
            for number, (label, p) in enumerate(rows)
        ]

    return make


@pytest.fixture
def random_cases() -> Make:
    """Make `n` random scored cases of `patients` patients, some unreadable, some of one probability."""

    def make(n: int, seed: int, patients: int | None = None, unreadable: float = 0.1) -> list[Prediction]:
        rng = np.random.default_rng(seed)
        found = []
        for number in range(n):
            label = ("ERROR", "CORRECT")[int(rng.random() < 0.6)]
            p = round(float(np.clip(rng.normal(0.6 if label == "ERROR" else 0.4, 0.25), 0, 1)), 2)
            said = None if rng.random() < unreadable else "ERROR" if p >= 0.5 else "CORRECT"
            whose = None if patients is None else f"p{rng.integers(patients)}"
            severity = "none" if label == "CORRECT" else ("critical", "high", "low")[rng.integers(3)]
            more = {"method": "score", "p_error": p, "patient_id": whose, "severity": severity}
            modality = ("xray", "mri")[rng.integers(2)]
            found.append(prediction(number, label, said, modality=modality, **more))
        return found

    return make
