"""Two processes that fill one store at the same time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
from stores import shards

from mlx_medlora.features.identity import identify
from mlx_medlora.features.source import ImageFeatures
from mlx_medlora.features.store import Store
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load

PROGRAM = """
import sys, time
from pathlib import Path
import mlx_medlora
import numpy as np
from mlx_medlora.features.opening import open_features
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.processor import Encoder

data, root, mine, other, turn = Path(sys.argv[1]), *map(Path, sys.argv[2:5]), int(sys.argv[5])
model, processor = mlx_medlora.load("tiny-medgemma")
settings = FeatureSettings(directory=root, limit=96 * 8704 / 1e9)  # shards of a few images
found = open_features(model, Encoder(processor, model.config), settings, data, print)
mine.touch()
while not other.exists():
    time.sleep(0.001)
files = sorted((data / "images").iterdir())
found.fill(files[::turn])
assert found.complete, found.use
np.save(mine.with_suffix(".npy"), np.stack([np.array(found[file]) for file in files]))
"""


def test_two_processes_fill_one_store(phantom_dataset: Path, tmp_path: Path) -> None:
    root = tmp_path / "store"
    marks = [tmp_path / "one", tmp_path / "two"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, (phantom_dataset, root, mine, other, turn))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine, other, turn in ((*marks, 1), (*marks[::-1], -1))
    ]
    said = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert [out for out, _ in said] == ["", ""]
    model, processor = load("tiny-medgemma")
    assert isinstance(model, Gemma3)
    encoder = Encoder(processor, model.config)
    files = sorted((phantom_dataset / "images").iterdir())
    plain = ImageFeatures(model, encoder)
    wanted = mx.stack([plain[file] for file in files])
    for mark in marks:
        assert mx.array_equal(mx.load(str(mark.with_suffix(".npy"))), wanted)
    told: list[str] = []
    third = ImageFeatures(model, encoder, Store(root, identify(model, encoder), 10**9, told.append))
    third.fill(files)
    assert (third.use.stored, told) == (len(files), [])
    assert len(shards(root)) > 4
    assert list(root.rglob("*.partial")) == []
