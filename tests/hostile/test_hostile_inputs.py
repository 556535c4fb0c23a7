"""Inputs that nobody should send: each is refused with a sentence that names the file and the place in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import CORPUS
from hostile import Hostile
from station import Station


@pytest.mark.parametrize("hostile", CORPUS, ids=str)
def test_it_is_refused_with_its_place(station: Station, hostile: Hostile, tmp_path: Path) -> None:
    outcome = station.run(hostile.build(tmp_path))
    assert not outcome.faults, outcome.said
    assert outcome.status == 2, outcome.said
    for text in hostile.says:
        assert text in outcome.said
    assert not (tmp_path / "out").exists()


def test_they_are_three_hundred_and_all_different() -> None:
    assert len({hostile.name for hostile in CORPUS}) == len(CORPUS) >= 300
