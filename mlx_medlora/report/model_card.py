"""A run's figures in the hub's model card: `model-index` in the front matter, and a section to read."""

from __future__ import annotations

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from mlx_medlora.evaluation.results import GateReport, Scorecard
from mlx_medlora.report.words import demand, figure, group_name, interval, last_part, short, title

# The hub's names of metrics, where it has one for what is meant here.
TYPES = {"f1": "f1", "mcc": "matthews_correlation", "auroc": "roc_auc", "accuracy": "accuracy"}
HEADING = "## Evaluation"


def with_figures(card: str, found: Scorecard) -> str:
    """`card`, a model card's whole text, with the figures of `found` in front matter and body.

    Raises ValueError where the front matter is not the hub's.
    """
    whole = ModelCard(card)
    base = whole.data.base_model
    whole.data.model_name = last_part(found.about.get("adapter") or found.about.get("model") or base)
    whole.data.eval_results = results(found)
    whole.text = _placed(whole.text, section(found))
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
            metric_args={"n": one.n, "interval_95": None if one.interval is None else list(one.interval)},
            **shared,
        )
        for one in found.measures.values()
        if one.value is not None
    ]


def section(found: Scorecard) -> str:
    """The figures as Markdown."""
    about = found.about
    lines = [
        HEADING,
        "",
        found.notice,
        "",
        f"{found.n} cases ({found.errors} with an error, {found.valid} valid) of the split "
        f"{_cell(about.get('split', 'unnamed'))}, "
        f"SHA-256 `{_cell(str(about.get('split_sha256', 'unknown'))[:16])}`.",
        "",
        "| figure | value | 95 % interval | cases | meaning |",
        "|---|---|---|---|---|",
    ]
    for one in found.measures.values():
        card = f" (the card's {one.card_name})" if one.card_name else ""
        row = (title(one.name) + card, figure(one), interval(one), str(one.n), one.reason or one.meaning)
        lines.append("| " + " | ".join(_cell(part, 300) for part in row) + " |")
    lines += ["", "| modality | accuracy | 95 % interval | cases |", "|---|---|---|---|"]
    for name, scores in found.by_modality.items():
        one = scores.measures["accuracy"]
        lines.append(f"| {_cell(name)} | {figure(one)} | {interval(one)} | {scores.n} |")
    if found.gates is not None:
        lines += ["", *_gates(found.gates)]
    if found.sample_size is not None:
        lines += ["", found.sample_size.sentence]
    return "\n".join(lines)


def _gates(report: GateReport) -> list[str]:
    lines = [f"Gates ({_cell(last_part(report.source))}): **{report.verdict}**", ""]
    lines += ["| gate | cases | verdict |", "|---|---|---|"]
    for gate in report.gates:
        words = f"{demand(gate.measure)} {gate.rule}, {group_name(gate)}"
        lines.append(f"| {_cell(words, 200)} | {gate.n} | {gate.verdict} |")
    return lines


def _cell(text: object, most: int = 80) -> str:
    """Text that stays within its cell and is no markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", short(text, most))


def _placed(text: str, evaluation: str) -> str:
    """The section before `## Use`, or at the end; one that stood there before goes."""
    text = re.sub(rf"\n{HEADING}\n.*?(?=\n## |\Z)", "", text, flags=re.S)
    before, use, after = text.partition("\n## Use\n")
    return f"{before.rstrip()}\n\n{evaluation}\n{use}{after}" if use else f"{text.rstrip()}\n\n{evaluation}\n"
