"""Run the benchmark suite: `mlx-medlora eval --suite` under the name the dataset card gives.

    python scripts/run_clinical_validation_benchmarks.py --model medgemma-lora

--model names an adapter in models/, where finetune_medgemma_lora.py writes, or is what `eval --model` takes.
Every option of `mlx-medlora eval` is taken. By default --data is lora_training, --output beside the adapter.
"""

import sys
from pathlib import Path

from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json

MODELS = Path("models")
NAME = "medgemma-lora"
BASE = "google/medgemma-4b-it"
CONFIG = "adapter_config.json"


def parted(arguments: list[str]) -> tuple[str, list[str]]:
    """The last value given to --model (the card's, without one), and the other arguments."""
    name, others, rest = NAME, [], iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        if option == "--model":
            name = value if equals else next(rest, "")
        else:
            others.append(argument)
    return name, others


def translated(arguments: list[str]) -> list[str]:
    """The card's arguments as the command's; what is given comes after the defaults and wins."""
    name, others = parted(arguments)
    adapter = next((place for place in (MODELS / name, Path(name)) if (place / CONFIG).is_file()), None)
    if adapter is None and name == NAME:
        adapter = MODELS / name  # the command says that it is not there
    output = ["--output", f"{MODELS / Path(name).name}-benchmarks", "--data", "lora_training", "--suite"]
    if adapter is None:
        return ["--model", name, *output, *others]
    return ["--model", base_of(adapter), "--adapter", str(adapter), *output, *others]


def base_of(adapter: Path) -> str:
    """The model that an adapter was trained on; the card's where it does not say."""
    try:
        found = read_json(adapter / CONFIG)
        return str(found["base"]["id"] if "base" in found else found["base_model_name_or_path"])
    except (InputError, OSError, TypeError, KeyError):
        return BASE  # the command says what is wrong with the adapter


if __name__ == "__main__":
    sys.exit(run(["eval", *translated(sys.argv[1:])]))
