"""Measure a fine-tuned MedGemma: `mlx-medlora eval` with the dataset card's defaults.

    python scripts/test_finetuned_medgemma.py

Every option of `mlx-medlora eval` is taken. Without --model it is the base that the adapter names.
"""

import sys
from pathlib import Path

from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
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


def base_of(adapter: Path) -> str:
    """The model that an adapter was trained on; the card's where it does not say."""
    try:
        found = read_json(adapter / "adapter_config.json")
        return str(found["base"]["id"] if "base" in found else found["base_model_name_or_path"])
    except (InputError, OSError, TypeError, KeyError):
        return BASE  # the command says what is wrong with the adapter


def defaults(arguments: list[str]) -> list[str]:
    """Options put before those that were given."""
    adapter = Path(value_of("--adapter", arguments) or ADAPTER)
    output = f"{adapter}-evaluation"
    return [
        "--model",
        base_of(adapter),
        "--adapter",
        str(adapter),
        "--data",
        "lora_training",
        "--output",
        output,
    ]


if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(run(["eval", *defaults(given), *given]))
