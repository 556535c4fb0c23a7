"""What speaks against a run's figures, as far as the run and its adapter's record say."""

from __future__ import annotations

from typing import Any

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.adapters import adapter_of
from mlx_medlora.evaluation.runs import Run
from mlx_medlora.files import read_json

RECORD = "run.json"

TRAINED = "its adapter was trained on these very cases: the figures say nothing of new ones"
CHOSE_EPOCH = "its adapter's epoch was chosen by these very cases: new cases will do worse"
THRESHOLD = "its threshold was chosen on these very cases: new cases will do worse"
UNREAD = "whether its adapter was trained on these very cases could not be looked up"


def cautions(run: Run) -> list[str]:
    """Sentences without an end, the gravest first; empty where nothing is known against it.

    Nothing is said of an adapter without a `run.json`, such as an imported one: what it was trained on is
    not known.
    """
    own = run.scorecard.about.get("split_sha256")
    found = []
    try:
        trained_on = _splits(run)
    except InputError as error:
        found.append(f"{UNREAD}: {error.message}")
        trained_on = {}
    for split, caution in (("train", TRAINED), ("val", CHOSE_EPOCH)):
        if own is not None and trained_on.get(split) == own:
            found.append(caution)
    return [*found, *_of_threshold(run)]


def _splits(run: Run) -> dict[str, Any]:
    """SHA-256 of each split that the adapter's training read; empty without an adapter or its record."""
    adapter = adapter_of(run)
    if adapter is None or not (adapter / RECORD).is_file():
        return {}
    raw = read_json(adapter / RECORD)
    data = raw.get("data") if isinstance(raw, dict) else None
    splits = data if isinstance(data, dict) else {}
    return {name: one.get("sha256") for name, one in splits.items() if isinstance(one, dict)}


def _of_threshold(run: Run) -> list[str]:
    point = run.scorecard.operating_point
    if point is None:
        return []
    others = [one for one in point.warnings if "these very cases" not in one]
    return ([THRESHOLD] if point.same_cases else []) + others
