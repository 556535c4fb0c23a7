"""The command lines of a whole project."""

from __future__ import annotations

from pathlib import Path

TRAIN = ("--model", "tiny-medgemma", "--data", "data", "--output", "adapter", "--epochs", "1", "--rank", "2")


def whole_path(source: Path) -> dict[str, tuple[object, ...]]:
    """A command line for each step of a project, in its order, to be run in one empty directory."""
    tiny = ("--model", "tiny-medgemma")
    answer = (*tiny, "--image", source / "scans/0.png", "--prompt", "What is shown?", "--max-tokens", "2")
    return {
        "doctor": ("doctor",),
        "prepare": ("prepare", source / "cases.csv", "--images", source / "scans", "--output", "data"),
        "plan": ("plan", *tiny, "--data", "data", "--tflops", "1"),
        "train": ("train", *TRAIN),
        "eval": ("eval", *tiny, "--adapter", "adapter", "--data", "data", "--output", "run"),
        "calibrate": (
            *("calibrate", *tiny, "--adapter", "adapter", "--data", "data", "--split", "train"),
            *("--max-false-flag", "0.5"),
        ),
        "report": ("report", "run"),
        "generate": ("generate", *answer),
        "export": ("export", "adapter", "exported"),
        "import": ("import", "exported", "imported", *tiny),
        "fuse": ("fuse", *tiny, "--adapter", "adapter", "--output", "fused"),
        "convert": ("convert", "tiny-medgemma", "converted", "--dtype", "float32"),
    }
