"""What loggers are told of a run: numbers by name, and nothing of any case."""

from __future__ import annotations

from mlx_medlora.training.events import Epoch, Step
from mlx_medlora.training.settings import TrainSettings

Config = dict[str, float | int | bool | str]

_STEP = (
    "loss",
    "learning_rate",
    "gradient_norm",
    "tokens",
    "rows",
    "replay_rows",
    "replay_tokens",
    "rows_per_second",
    "peak_memory",
)
_EPOCH = {
    "train_loss": "epoch/train_loss",
    "val_loss": "val/loss",
    "perplexity": "val/perplexity",
    "val_accuracy": "val/accuracy",
}
_BOUNDS = ("val/accuracy_low", "val/accuracy_high")  # of the 95 % interval
_PLACES = ("replay",)  # settings that say something of this machine's files


def figures(event: Step | Epoch) -> dict[str, float]:
    """The figures of an update (`train/loss` ...) or an epoch (`val/loss` ...), those that were measured."""
    if isinstance(event, Step):
        named = {f"train/{name}": getattr(event, name) for name in _STEP}
        named["epoch/number"] = event.epoch
    else:
        named = {name: getattr(event, key) for key, name in _EPOCH.items()}
        named["epoch/number"] = event.epoch
        named.update(zip(_BOUNDS, event.val_accuracy_interval or (), strict=False))
    return {name: float(value) for name, value in named.items() if value is not None}


def config(settings: TrainSettings) -> Config:
    """The run's settings as plain values; paths are left out."""
    plain: Config = {}
    for name, value in settings.model_dump().items():
        if name in _PLACES or value is None:
            continue
        plain[name] = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    return plain
