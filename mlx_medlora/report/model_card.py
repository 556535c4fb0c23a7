"""A run's evidence in the hub's model card: `model-index` in the front matter, and a section to read."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from mlx_medlora.evaluation.results import Scorecard
from mlx_medlora.report.card_sections import sections
from mlx_medlora.report.sources import Evidence
from mlx_medlora.report.words import last_part, title

# The hub's names of metrics, where it has one for what is meant here.
TYPES = {"f1": "f1", "mcc": "matthews_correlation", "auroc": "roc_auc", "accuracy": "accuracy"}
HEADING = "## Evaluation"


def with_evidence(card: str, evidence: Evidence) -> str:
    """`card`, a model card's whole text, with the figures of `evidence` in front matter and body.

    Raises ValueError where the front matter is not the hub's.
    """
    whole, found = ModelCard(card), evidence.scorecard
    base = whole.data.base_model
    whole.data.model_name = last_part(found.about.get("adapter") or found.about.get("model") or base)
    whole.data.eval_results = results(found)
    whole.text = _placed(whole.text, section(evidence))
    return str(whole)


def results(found: Scorecard) -> list[EvalResult]:
    """Every figure that has a value, with its interval beside, on this dataset's split."""
    about = found.about
    name = last_part(about.get("data") or "unnamed cases")
    shared: dict[str, Any] = {
        "task_type": "image-text-to-text",
        "task_name": "clinical error detection",
        "dataset_type": re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "cases",
        "dataset_name": name,
        "dataset_split": str(about.get("split", "unnamed")),
        "dataset_args": {"split_sha256": str(about.get("split_sha256", "unknown")), "n": found.n},
    }
    return [
        EvalResult(
            metric_type=TYPES.get(one.name, one.name),
            metric_name=title(one.name),
            metric_value=round(one.value, 6),
            metric_args={"n": one.n, "interval_95": one.interval and [round(end, 9) for end in one.interval]},
            **shared,
        )
        for one in found.measures.values()
        if one.value is not None
    ]


def section(evidence: Evidence) -> str:
    """What the page says, as Markdown and without any case."""
    return "\n\n".join([HEADING, *("\n".join(block) for block in sections(evidence))])


def _placed(text: str, evaluation: str) -> str:
    """The section before `## Use`, or at the end; one that stood there before goes."""
    text = re.sub(rf"\n{HEADING}\n.*?(?=\n## |\Z)", "", text, flags=re.S)
    before, use, after = text.partition("\n## Use\n")
    return f"{before.rstrip()}\n\n{evaluation}\n{use}{after}" if use else f"{text.rstrip()}\n\n{evaluation}\n"
