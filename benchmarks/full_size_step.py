"""One LoRA step of MedGemma-4B's exact shape on a machine with 24 GB, beside what `plan` predicts.

    python benchmarks/full_size_step.py --checkpoint /var/tmp/medgemma-4b-random --scratch /var/tmp
    python benchmarks/full_size_step.py --shape tiny --forms 4-bit                 # to try the script

Writes the random checkpoint where it is not there (benchmarks/full_size.py), converts it to fp32 and to 4
bits, makes a dataset of one case with one image, and runs `mlx-medlora train --dry-run` on each form in a
process of its own: vision features of the image at 896 x 896 pixels, then one update of a rank-16 adapter on
q, v and o. Prints seconds and peak resident memory. Takes 30 GB of disk, and minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from full_size import write_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FORMS = {"fp32": ["--dtype", "float32"], "4-bit": ["--bits", "4", "--dtype", "float32"]}
ROW = "c1,xray,{image},56,Female,Clear lungs,IV ceftriaxone for pneumonia,ERROR"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--shape", default="4b")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--image", type=Path, default=image())
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        place = Path(scratch)
        checkpoint = given.checkpoint or place / "checkpoint"
        if not checkpoint.is_dir():
            write_checkpoint(checkpoint, given.shape)
        data = dataset(place, given.image)
        for form in given.forms:
            report(form, checkpoint, place / form, data)


def image() -> Path:
    """A real image where there is one, else one that comes with the project."""
    real = sorted((ROOT.parent / "shared" / "real-images" / "chest_xray").glob("*/*"))
    return real[0] if real else ROOT / "lora_training" / "images" / "xray_positive.png"


def dataset(place: Path, file: Path) -> Path:
    """A dataset of one case."""
    cases = place / "cases.csv"
    header = "id,modality,image,age,gender,finding,treatment,label"
    cases.write_text(f"{header}\n{ROW.format(image=file.name)}\n")
    run("prepare", str(cases), "--images", str(file.parent), "--output", str(place / "data"), "--val", "0")
    return place / "data"


def report(form: str, checkpoint: Path, model: Path, data: Path) -> None:
    """Convert, plan, step, and print a line each."""
    _, seconds, peak = run("convert", str(checkpoint), str(model), *FORMS[form])
    print(f"{form}: converted in {seconds:.0f} s, {peak / 1e9:.2f} GB resident", flush=True)
    recipe = ["--model", str(model), "--data", str(data), "--batch-size", "1", "--dropout", "0"]
    plan, _, _ = run("plan", *recipe)
    found, seconds, peak = run("train", *recipe, "--dry-run")
    print(
        f"{form}: {found['longest_row']} tokens, {found['trainable_parameters']:,} parameters; one update in "
        f"{found['seconds']:.0f} s, {seconds:.0f} s with loading and the image's features; "
        f"peak resident {peak / 1e9:.2f} GB, MLX's own peak {found['peak_memory'] / 1e9:.2f} GB"
    )
    memory, time_ = plan["memory"], plan.get("seconds") or {}
    print(f"{form}: plan said {json.dumps(memory)}; time {json.dumps(time_)}", flush=True)


def run(*command: str) -> tuple[dict[str, Any], float, int]:
    """A command's JSON, its seconds, and its peak resident bytes."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlx_medlora.cli.app", *command, "--json"], stdout=out
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{command[0]} failed with status {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        found: dict[str, Any] = json.loads(out.read())
    unit = 1 if sys.platform == "darwin" else 1024
    return found, time.perf_counter() - start, usage.ru_maxrss * unit


if __name__ == "__main__":
    main()
