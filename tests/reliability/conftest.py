"""A process to run commands in that are killed or starved, and a small dataset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from killable import Forked


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    process = Forked()
    yield process
    process.close()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of twelve small phantoms, four of them to validate on."""
    from mlx_medlora.cases.prepare import prepare_phantoms

    directory = tmp_path_factory.mktemp("small") / "data"
    prepare_phantoms(12, directory, val=4, size=64)
    return directory
