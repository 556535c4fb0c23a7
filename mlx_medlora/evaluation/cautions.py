"""What speaks against a run's figures, as far as the run and its adapter's record say."""

from __future__ import annotations

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.adapters import adapter_of, caveat, record_of, record_of_model
from mlx_medlora.evaluation.runs import Run

THRESHOLD = "its threshold was chosen on these very cases: new cases will do worse"
UNREAD = "whether its adapter was trained on these very cases could not be looked up"


def cautions(run: Run) -> list[str]:
    """Sentences without an end, the gravest first; empty where nothing is known against it.

    Nothing is said of an adapter without a record, such as a stranger's: what it was trained on is not known.
    """
    return [*_of_adapter(run), *_of_threshold(run)]


def _of_adapter(run: Run) -> list[str]:
    try:
        adapter = adapter_of(run)
        records = [] if adapter is None else [record_of(adapter)]
        model = run.place("model")
        records += [] if model is None else [record_of_model(model)]
    except InputError as error:
        return [f"{UNREAD}: {error.message}"]
    about = run.scorecard.about
    found = (caveat(record, about.get("split_sha256"), about.get("split")) for record in records)
    return [one for one in found if one is not None]


def _of_threshold(run: Run) -> list[str]:
    point = run.scorecard.operating_point
    if point is None:
        return []
    others = [one for one in point.warnings if "these very cases" not in one]
    return ([THRESHOLD] if point.same_cases else []) + others
