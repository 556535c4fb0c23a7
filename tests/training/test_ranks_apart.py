"""Ranks that share no disk: each has the features of all images after the fill, and the tower rests."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_ranks import SHARED, assert_same_adapter, launch, options, train

# Each rank keeps features in a place of its own, and says how often a tower looked once training began.
APART = """
import os, sys
from mlx_medlora.cli.app import run
from mlx_medlora.gemma.vision import VisionTower
from mlx_medlora.training.trainer import Trainer

root, *arguments = sys.argv[1:]
rank, passes = os.environ["MLX_RANK"], []
look, training = VisionTower.__call__, Trainer.run

def count(self, pixels):
    passes.append(1)
    return look(self, pixels)

def watch(self):
    passes.clear()
    outcome = training(self)
    print(f"rank {rank}: {len(passes)} passes, tower {self.model.has_tower}", flush=True)
    return outcome

VisionTower.__call__, Trainer.run = count, watch
sys.exit(run([*arguments, "--features", os.path.join(root, rank)]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("unwritable", [None, "1"])
def test_after_the_fill_no_rank_looks_at_an_image_again(
    tiny_medgemma: Path, data: Path, tmp_path: Path, unwritable: str | None
) -> None:
    root, script = tmp_path / "kept", tmp_path / "apart.py"
    root.mkdir()
    script.write_text(APART)
    if unwritable is not None:
        (root / unwritable).write_text("a file stands where the directory should be")
    place = ["--model", str(tiny_medgemma), "--data", str(data), "--output", str(tmp_path / "apart")]
    ended = launch(2, str(script), str(root), "train", *place, *options(SHARED))
    for rank in (0, 1):
        assert f"rank {rank}: 0 passes, tower False" in ended.stdout, ended.stderr
    assert "loaded again" not in ended.stdout + ended.stderr
    train(1, tiny_medgemma, data, tmp_path / "one", SHARED)
    assert_same_adapter(tmp_path / "apart", tmp_path / "one")
