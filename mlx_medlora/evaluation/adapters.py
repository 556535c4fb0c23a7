"""Which adapter answered, told by its weights' bytes wherever it lies now, and what it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.runs import Run
from mlx_medlora.files import read_json, sha256

WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors")  # PEFT's first, as they are loaded
DIGEST = "adapter_sha256"
FINGERPRINTS = (
    "fingerprint",
    "source_fingerprint",
)  # own, and of what it was converted from
MARKS = "model_trained_on"  # of what data the model's own weights were trained on
RECORDS = (("run.json", "data"), ("training_data.json", "splits"))  # file, and its key of the data
MANIFEST = "mlx_medlora.json"  # of a model
TRAINED = "the adapter was trained on these very cases: the figures say nothing of new ones"
UNKNOWN = "what the adapter was trained on is not known: it may have been these very cases"
CHOSE = "these very cases chose the adapter's epoch: new cases will do worse"


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
    place = run.place("adapter") if given is None else given
    if about.get("adapter") is None and given is not None:
        raise InputError("a base model was evaluated, without an adapter", path=run.directory)
    if place is None:
        return None
    if not place.is_dir():
        message = "the adapter is not where it was" if given is None else "no such adapter directory"
        raise InputError(message, path=place, hint="--adapter says where it lies now.")
    if about.get(DIGEST) is not None and digest(place) != about[DIGEST]:
        message = "the adapter's weights are not those that were evaluated"
        raise InputError(message, path=place, hint="Evaluate again, or name the adapter as it was.")
    return place


def record_of(adapter: Path) -> dict[str, Any]:
    """An adapter's `run.json`, or of an exported one its `training_data.json`; {} where it has neither.

    `data` holds the splits in both. Raises InputError where it cannot be read.
    """
    for name, key in RECORDS:
        if (adapter / name).is_file():
            raw = read_json(adapter / name)
            return {**raw, "data": raw.get(key)} if isinstance(raw, dict) else {}
    return {}


def record_of_model(model: Path) -> dict[str, Any]:
    """What a fused model's manifest says of its adapter's data, as `record_of`; {} of any other model.

    Raises InputError where it cannot be read.
    """
    if not (model / MANIFEST).is_file():
        return {}
    raw = read_json(model / MANIFEST)
    adapter = raw.get("adapter") if isinstance(raw, dict) else None
    data = adapter.get("data") if isinstance(adapter, dict) else None
    return {"data": data.get("splits")} if isinstance(data, dict) else {}


def caveat(
    record: Mapping[str, Any], split_sha256: object, split: object = None, splits: Sequence[str] = ()
) -> str | None:
    """What to say where training saw the very cases of `split_sha256`, by an adapter's record; else None.

    To have learned them is graver than to have chosen the epoch by them. `split` is what they are called,
    `splits` are those of their dataset.
    """
    if split_sha256 is None:
        return None
    if _hash_of(record, "train") == split_sha256:
        return TRAINED
    validated = record.get("best_by", "validation loss") == "validation loss"
    if not validated or _hash_of(record, "val") != split_sha256:
        return None
    if "test" in splits and split != "test":
        return f"{CHOSE}; for a claim evaluate the split test (--split test)"
    return f"{CHOSE}; keep a test split for the claim"


def _hash_of(record: Mapping[str, Any], split: str) -> object:
    data = record.get("data")
    found = data.get(split) if isinstance(data, dict) else None
    return found.get("sha256") if isinstance(found, dict) else None
