"""Prepare a dataset directory: `mlx-medlora prepare` under the name the dataset card gives.

python scripts/prepare_lora_dataset.py   (writes lora_training/, the 24 cases, if it is missing)
python scripts/prepare_lora_dataset.py cases.csv --images scans/ --output my_dataset
"""

import sys
from pathlib import Path

from mlx_medlora.cases.bundled import write_bundled
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cli import errors
from mlx_medlora.cli.app import run

BUNDLED = Path("lora_training")


def bundled() -> int:
    """Write the bundled dataset, or check the one that is here; say what it holds."""
    try:
        if not BUNDLED.exists():
            write_bundled(BUNDLED)
        dataset = Dataset.open(BUNDLED)
        counts = [f"{len(dataset.cases(split))} {split}" for split in dataset.splits()]
    except Exception as error:
        return errors.say(error)
    print(f"{BUNDLED}: {', '.join(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(run(["prepare", *sys.argv[1:]]) if sys.argv[1:] else bundled())
