"""Inputs that hypothesis makes: refused with their file named, or taken; never a crash, a hang or a flood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fuzzers import FUZZERS, Fuzzer
from hypothesis import HealthCheck, given, settings
from station import Station


@pytest.mark.parametrize("fuzzer", FUZZERS, ids=str)
def test_whatever_comes_is_refused_or_taken(station: Station, fuzzer: Fuzzer, tmp_path: Path) -> None:
    refused: list[int] = []

    @settings(
        max_examples=fuzzer.examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzzer.values)
    def attack(value: Any) -> None:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        outcome = station.run(fuzzer.build(place, value))
        assert not fuzzer.faults(outcome), outcome.said
        refused.append(outcome.status == 2)

    attack()
    assert sum(refused) >= fuzzer.refused


def test_at_least_three_hundred_of_them_are_malformed() -> None:
    assert sum(fuzzer.refused for fuzzer in FUZZERS) >= 300
