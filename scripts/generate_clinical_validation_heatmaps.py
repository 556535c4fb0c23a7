"""Draw the heatmaps of the benchmark suite: `mlx-medlora heatmaps` under the name the dataset card gives.

    python scripts/generate_clinical_validation_heatmaps.py
    python scripts/generate_clinical_validation_heatmaps.py runs/mine --output figures

Without a run it is the one that run_clinical_validation_benchmarks.py wrote for --model medgemma-lora.
"""

import sys

from mlx_medlora.cli.app import run

RUN = "models/medgemma-lora-benchmarks"


def defaults(arguments: list[str]) -> list[str]:
    """The arguments with the default run put before them, where none was given."""
    first = arguments[0] if arguments else "-"
    return [RUN, *arguments] if first.startswith("-") and first not in ("-h", "--help") else arguments


if __name__ == "__main__":
    sys.exit(run(["heatmaps", *defaults(sys.argv[1:])]))
