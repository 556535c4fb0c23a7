"""What may hold something of patients is its user's alone, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_lines import whole_path

from mlx_medlora.training.events import Event, Step
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

PRIVATE = ("data", "adapter", "run", "exported", "imported", "fused")
MADE = ("prepare", "train", "eval", "export", "import", "fuse")


def modes(root: Path) -> tuple[set[int], set[int]]:
    """The modes of the directories, and of the files, in `root` and below it."""
    found = [(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (root, *root.rglob("*"))]
    return {mode for folder, mode in found if folder}, {mode for folder, mode in found if not folder}


@pytest.mark.parametrize(("mask", "made"), [(0o000, MADE), (0o022, MADE[:1])])
def test_what_commands_write_is_for_the_user_alone(
    mask: int,
    made: tuple[str, ...],
    source: Path,
    tmp_path: Path,
    command: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    lines = whole_path(source)
    before = os.umask(mask)
    try:
        for name in (*made, "convert"):
            done = command(*lines[name], cwd=tmp_path)
            assert done.returncode == 0, (name, done.stderr)
    finally:
        os.umask(before)
    private = PRIVATE[: len(made)]
    for name in private:
        assert modes(tmp_path / name) == ({0o700}, {0o600}), name
    assert (tmp_path / "data" / ".features").is_dir() is ("train" in made)  # the store was looked at too
    assert modes(tmp_path / "converted") == ({0o777 & ~mask}, {0o666 & ~mask})  # holds no patient's data
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*private, "converted"])


def test_a_run_under_way_and_what_is_left_of_it_are_too(
    phantom_dataset: Path, tiny_medgemma: Path, tmp_path: Path
) -> None:
    place = tmp_path / ".adapter.run"
    seen: list[tuple[set[int], set[int]]] = []

    def look(event: Event) -> None:
        if isinstance(event, Step):
            seen.append(modes(place))
            if event.step == 2:
                raise RuntimeError("as if the power went")

    settings = TrainSettings(epochs=3, batch_size=12, rank=2, checkpoint_every=0)
    before = os.umask(0)
    try:
        with pytest.raises(RuntimeError):
            run_training(tiny_medgemma, phantom_dataset, tmp_path / "adapter", settings, listeners=[look])
    finally:
        os.umask(before)
    assert seen == [({0o700}, {0o600})] * 2
    assert modes(place) == ({0o700}, {0o600})
    assert {path.name for path in place.iterdir()} >= {"owner.json", "metrics.jsonl", "checkpoints"}
