"""A training step of MedGemma 4B's shape in bf16 on one NVIDIA GPU: ours against transformers + PEFT.

On a Linux machine with an NVIDIA GPU of 80 GB and a driver for CUDA 13, from a checkout:

    python3 -m venv .venv && .venv/bin/pip install -e '.[cuda,parity]'
    .venv/bin/python benchmarks/gpu_step.py --scratch /var/tmp          # writes 8.6 GB there, and removes it

Anywhere, to see that it runs (bf16 on a processor says nothing about speed):

    python benchmarks/gpu_step.py --shape tiny

All contestants stay on the GPU together and take turns; `--only ours` runs without torch. Weights are random.
Each row is 400 tokens with one 896-pixel image and 8 supervised tokens; LoRA is rank 16 on q, v and o. The
share is of the best rate of bf16 products measured between the rounds; memory is what live arrays take over
the weights, as MLX and torch count it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from contest import OUR_ENTRIES, OURS, Entry, Terms, contest, table
from full_size import TINY, write_checkpoint
from reference import ADAPTER, Batch, rows, save

from mlx_medlora.gemma.config import read_config

BATCHES = {"4b": (400, 8), "tiny": (64, 8)}  # tokens of a row, supervised tokens
MATMUL = {"4b": 8192, "tiny": 256}


def main() -> None:
    """Write a random checkpoint, run the contest on it, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=BATCHES, default="4b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps in each turn")
    parser.add_argument("--only", nargs="+", choices=["peft", "peft-kept", *OUR_ENTRIES])
    parser.add_argument("--scratch", type=Path, help="directory with room for the checkpoint")
    chosen = parser.parse_args()
    device = "cpu" if chosen.shape == "tiny" else "cuda"
    torch = {"dtype": "bfloat16", "device": device}
    entries = {
        "peft": Entry("peers:Peft", torch),
        "peft-kept": Entry("peers:Peft", torch | {"kept": True}, whole_head=False),
        **OUR_ENTRIES,
    }
    if chosen.only:
        entries = {name: entry for name, entry in entries.items() if name in {*chosen.only, OURS}}
    length, supervised = BATCHES[chosen.shape]
    batch = Batch(chosen.rows, length, supervised)
    terms = Terms(chosen.rounds, chosen.steps, 2, os.cpu_count() or 1, float(ADAPTER["dropout"]))
    with tempfile.TemporaryDirectory(dir=chosen.scratch) as scratch:
        directory = Path(scratch) / "model"
        write_checkpoint(directory, chosen.shape, tokenizer=TINY)
        made = read_config(directory)
        save(directory, rows(made, batch))
        found = contest(directory, entries, terms, {"size": MATMUL[chosen.shape], "dtype": "bfloat16"})
    table(found, entries, made, batch)


if __name__ == "__main__":
    main()
