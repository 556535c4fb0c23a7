"""Fine-tune MedGemma with LoRA: `mlx-medlora train` with the dataset card's names and defaults.

    python scripts/finetune_medgemma_lora.py --epochs 3 --batch-size 4 --lr 2e-4 --lora-rank 16

Every option of `mlx-medlora train` is taken; --model, --data and --output have the card's defaults.
"""

import sys

from mlx_medlora.cli.app import run

DEFAULTS = ["--model", "google/medgemma-4b-it", "--data", "lora_training", "--output", "models/medgemma-lora"]
CARD_NAMES = {"--lora-rank": "--rank", "--lora-alpha": "--alpha", "--lora-dropout": "--dropout"}


def translated(arguments: list[str]) -> list[str]:
    """The card's option names as the command's; what is given comes after the defaults and wins."""
    parts = (argument.partition("=") for argument in arguments)
    return DEFAULTS + [CARD_NAMES.get(name, name) + equals + value for name, equals, value in parts]


if __name__ == "__main__":
    sys.exit(run(["train", *translated(sys.argv[1:])]))
