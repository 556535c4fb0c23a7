"""Measure a fine-tuned MedGemma: `mlx-medlora eval` with the dataset card's defaults.

    python scripts/test_finetuned_medgemma.py

Every option of `mlx-medlora eval` is taken. Without --model it is the base that the adapter names.
"""

import sys
from pathlib import Path

from mlx_medlora.cli.app import run
from mlx_medlora.files import read_json

ADAPTER = Path("models/medgemma-lora")
BASE = "google/medgemma-4b-it"


def value_of(option: str, arguments: list[str]) -> str | None:
    """The last value given to `option`, as `--option value` or `--option=value`."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name == option:
            found = value if equals else following
    return found


def defaults(arguments: list[str]) -> list[str]:
    """Options put before those that were given."""
    adapter = Path(value_of("--adapter", arguments) or ADAPTER)
    config = adapter / "adapter_config.json"
    base = str(read_json(config)["base"]["id"]) if config.is_file() else BASE
    output = f"{adapter}-evaluation"
    return ["--model", base, "--adapter", str(adapter), "--data", "lora_training", "--output", output]


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(run(["eval", *defaults(given), *given]))
