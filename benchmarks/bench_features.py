"""Claim: a run whose image features are stored takes its first step many times sooner.

    python benchmarks/bench_features.py [--model DIR] [--images 4] [--turns 5]

Runs that compute the features and runs that find them take turns in one process; each loads the model, has
the features of every image and takes one update on one row. By default the model is a random one whose tower
has SigLIP's width and depth (27 layers of 1152) on images of 224 pixels: MedGemma's 896 pixels cost 26 times
as much for each image, so its ratio is larger. Then what it costs that each image goes through the tower
alone, on the embedded model, where it costs most.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import mlx_medlora

# isort: split
import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.hub import resolve
from mlx_medlora.gemma.model import build
from mlx_medlora.training.run import look
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import set_up
from mlx_medlora.training.trainer import Trainer

SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a checkpoint directory of your own")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        model = options.model or write_model(place / "model")
        prepare_phantoms(options.images, place / "data", val=1)
        compare_runs(model, place, options.turns, options.images)
    compare_passes(options.turns)


def write_model(directory: Path) -> Path:
    """The embedded model with a random tower of SigLIP's width and depth."""
    embedded = resolve("tiny-medgemma")
    shutil.copytree(embedded, directory, ignore=shutil.ignore_patterns("*.safetensors"))
    for name, change in (
        ("config.json", {"vision_config": {**SIGLIP, "model_type": "siglip_vision_model"}}),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}),
    ):
        known = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps({**known, **change}))
    model = build(read_config(directory))
    weights = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(directory / "model.safetensors"), weights, metadata={"format": "mlx"})
    return directory


def first_step(model: Path, place: Path, store: Path) -> tuple[float, float]:
    """Seconds until the first update is done, and those of them that went into features."""
    settings = TrainSettings(rank=16, batch_size=1, dropout=0.0)
    start = perf_counter()
    setup = set_up(model, place / "data", settings, mx.float32)
    loaded = perf_counter()
    images = look(setup, FeatureSettings(directory=store))
    looked = perf_counter()
    Trainer(setup.model, setup.train, setup.val, images, settings, save=lambda kind: None).update(
        [setup.train[:1]], epoch=1
    )
    return perf_counter() - start, looked - loaded


def compare_runs(model: Path, place: Path, turns: int, images: int) -> None:
    """Print the ratios of runs that compute to runs that find."""
    store = place / "store"
    pairs = []
    for _ in range(turns):
        shutil.rmtree(store, ignore_errors=True)
        pairs.append((first_step(model, place, store), first_step(model, place, store)))
        mx.clear_cache()
    print(f"{images} images; computed against stored, {turns} pairs")
    for part, name in enumerate(("time to the first step", "features alone")):
        show(name, [cold[part] / warm[part] for cold, warm in pairs])
    cold, warm = (statistics.median(run[0] for run in runs) for runs in zip(*pairs, strict=True))
    print(f"  medians to the first step: {cold:.2f} s computed, {warm:.2f} s stored")


def compare_passes(turns: int) -> None:
    """Print what passes of one image cost against passes of 32, on the embedded model."""
    model = mlx_medlora.load_model("tiny-medgemma", dtype=mx.float32)
    side = model.config.vision.image_size
    pixels = mx.random.normal((64, 3, side, side), key=mx.random.key(0))

    def seconds(size: int) -> float:
        start = perf_counter()
        for at in range(0, 64, size):
            mx.eval(model.image_features(pixels[at : at + size]))
        return perf_counter() - start

    seconds(1), seconds(32)
    print("the embedded model's tower, one image a pass against 32")
    show("time", [seconds(1) / seconds(32) for _ in range(turns)])


def show(name: str, ratios: list[float]) -> None:
    print(f"  {name}: ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
