"""Every hostile input that was written by hand."""

from __future__ import annotations

import corpus_adapters
import corpus_models
import corpus_rows
import corpus_tables
import corpus_weights
from hostile import Hostile

CORPUS: list[Hostile] = [
    *corpus_rows.CASES,
    *corpus_tables.CASES,
    *corpus_models.CASES,
    *corpus_weights.CASES,
    *corpus_adapters.CASES,
]
