"""The files of `benchmarks/` import each other by name, as scripts do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(scope="session")
def quick_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy reference checkpoint with its batch."""
    import reference

    directory = tmp_path_factory.mktemp("quick")
    reference.write(directory, reference.QUICK)
    return directory
