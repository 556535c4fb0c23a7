"""Two ranks with one BLAS thread each against one rank with one thread, same global batch.

    python benchmarks/bench_ranks.py --pairs 7

Starts its two ranks itself, as mlx.launch does: that program waits for its ranks in a loop that keeps a core
busy, and there are two. The two take turns in the same processes: while the first rank trains alone
the second sleeps. The model is random, the reference step's text stack; a batch is 4 rows of 221 tokens, 12
of them supervised, on features that are computed already.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlx_medlora.gemma  # noqa: F401  (the BLAS before MLX)

# isort: split
import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_medlora.gemma.config import ModelConfig, TextConfig, VisionConfig
from mlx_medlora.gemma.model import Base, build
from mlx_medlora.lora.layers import attach
from mlx_medlora.training.examples import Example
from mlx_medlora.training.features import FeatureCache
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.trainer import Trainer

ROWS, SOFT = 4, 64
SETTINGS = TrainSettings(batch_size=ROWS, dropout=0.0, epochs=100, warmup=0.0)
IMAGE = Path("image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--updates", type=int, default=3, help="in each half of a pair")
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if "MLX_RANK" in os.environ:
        compare(Ranks.join(), given.pairs, given.updates, Path(given.scratch))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--pairs", str(given.pairs), "--updates", str(given.updates), "--scratch", scratch]
        command = [sys.executable, __file__, *options]
        ranks = [subprocess.Popen(command, env=environment(rank, Path(scratch))) for rank in range(2)]
        statuses = [process.wait() for process in ranks]
        if any(statuses):
            raise SystemExit("a rank failed")


def environment(rank: int, scratch: Path) -> dict[str, str]:
    """What mlx.launch gives a rank of two on this machine, and one BLAS thread."""
    hosts = scratch / "hosts.json"
    if rank == 0:
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **own}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def compare(ranks: Ranks, pairs: int, updates: int, scratch: Path) -> None:
    alone, both = trainer(ALONE), trainer(ranks)
    window = [both.train]
    both.update(window, 1)
    if ranks.first:
        alone.update(window, 1)
    ratios = []
    for pair in range(pairs):
        turn = scratch / f"turn-{pair}"
        if ranks.first:
            single = seconds(alone, window, updates)
            turn.touch()
        while not turn.exists():
            time.sleep(0.005)  # waiting in an exchange would keep a core busy
        ranks.any(False)
        shared = seconds(both, window, updates)
        if ranks.first:
            ratios.append(single / shared)
    if ranks.first:
        sent = sum(array.nbytes for _, array in tree_flatten(both.model.trainable_parameters()))
        spread = f"{min(ratios):.2f} to {max(ratios):.2f} over {pairs} pairs"
        print(f"2 ranks against 1, {ROWS} rows an update: {np.median(ratios):.2f} times ({spread})")
        print(f"gradients summed in each update: {sent / 1e6:.2f} MB")
        sharded = trainer(ALONE, shards=ranks.size)
        seconds(sharded, window, both.outcome.steps)
        for name, one in (("one rank", alone), (f"one rank with --shards {ranks.size}", sharded)):
            print(f"{name}, after {both.outcome.steps} updates: {apart(one.model, both.model)}")


def apart(one: Base, other: Base) -> str:
    """How far two adapters are from each other, element by element."""
    pairs = zip(
        tree_flatten(one.trainable_parameters()), tree_flatten(other.trainable_parameters()), strict=True
    )
    gaps = np.concatenate([np.abs(np.array(a) - np.array(b)).ravel() for (_, a), (_, b) in pairs])
    over = int((gaps > 1e-6).sum())
    return f"largest difference {gaps.max():.1e}, over 1e-6 in {over} of {gaps.size} elements"


def seconds(trained: Trainer, window: list[list[Example]], updates: int) -> float:
    start = time.perf_counter()
    for _ in range(updates):
        trained.update(window, 1)
    return time.perf_counter() - start


def trainer(ranks: Ranks, shards: int | None = None) -> Trainer:
    mx.random.seed(0)
    config = geometry()
    model = build(config)
    mx.eval(model.parameters())  # a compiled step would draw them again in every update
    attach(model, SETTINGS.lora, seed=0)
    model.train()
    features = FeatureCache({IMAGE: mx.random.normal((SOFT, config.text.hidden_size))})
    rows = [example(index, config) for index in range(ROWS)]
    return Trainer(model, rows, [], features, SETTINGS, save=lambda kind: None, ranks=ranks, shards=shards)


def geometry() -> ModelConfig:
    """The text stack of the reference step (reference.py), and a tower that is not used."""
    kinds = tuple("full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(8))
    text = TextConfig(
        vocab_size=65_536,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=len(kinds),
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        query_pre_attn_scalar=64,
        sliding_window=512,
        layer_types=kinds,
    )
    vision = VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=112,
        patch_size=7,
    )
    return ModelConfig(
        text=text,
        vision=vision,
        mm_tokens_per_image=SOFT,
        image_token_id=65_000,
        boi_token_id=65_001,
        eoi_token_id=65_002,
        dtype="float32",
    )


def example(index: int, config: ModelConfig) -> Example:
    words = np.random.default_rng(index).integers(10, 7000, 154)
    ids = [2, config.boi_token_id, *[config.image_token_id] * SOFT, config.eoi_token_id, *words]
    supervised = np.arange(len(ids)) >= len(ids) - 12
    return Example(np.array(ids, dtype=np.int32), supervised, (IMAGE,), str(index), f"row {index}")


if __name__ == "__main__":
    main()
