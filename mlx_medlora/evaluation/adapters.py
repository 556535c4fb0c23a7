"""Which adapter answered: told by its weights' bytes, wherever its directory lies now."""

from __future__ import annotations

from pathlib import Path

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.runs import Run
from mlx_medlora.files import sha256

WEIGHTS = ("adapters.safetensors", "adapter_model.safetensors")  # the toolkit's own and PEFT's
DIGEST = "adapter_sha256"


def digest(adapter: Path) -> str | None:
    """SHA-256 (hex) of the weights in an adapter's directory; None where it has none."""
    found = next((adapter / name for name in WEIGHTS if (adapter / name).is_file()), None)
    return None if found is None else sha256(found)


def adapter_of(run: Run, given: Path | None = None) -> Path | None:
    """The directory of the adapter that answered; None where the base model did. `given`: where it lies now.

    Raises InputError where it is not there, or has other weights than those that were evaluated, as far as
    the run says which those were.
    """
    about = run.scorecard.about
    place = about.get("adapter") if given is None else given
    if about.get("adapter") is None and given is not None:
        raise InputError("a base model was evaluated, without an adapter", path=run.directory)
    if place is None:
        return None
    directory = Path(str(place))
    if not directory.is_dir():
        message = "the adapter is not where it was" if given is None else "no such adapter directory"
        raise InputError(message, path=directory, hint="--adapter says where it lies now.")
    if about.get(DIGEST) is not None and digest(directory) != about[DIGEST]:
        message = "the adapter's weights are not those that were evaluated"
        raise InputError(message, path=directory, hint="Evaluate again, or name the adapter as it was.")
    return directory
