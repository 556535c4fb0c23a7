from __future__ import annotations

from collections.abc import Iterator

import pytest
from station import Station


@pytest.fixture(scope="session")
def station() -> Iterator[Station]:
    """The worker of all these tests, warmed up, so that what is imported once counts for no input."""
    made = Station()
    made.run(["--version"])
    yield made
    made.close()
