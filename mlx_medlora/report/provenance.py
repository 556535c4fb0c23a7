"""How the figures came about, and what of the data the page holds."""

from __future__ import annotations

from typing import Any

from mlx_medlora.evaluation.adapters import MARKS
from mlx_medlora.report.sources import Evidence, Options
from mlx_medlora.report.words import last_part, number, title


def settings(evidence: Evidence, options: Options) -> list[tuple[str, list[tuple[str, str]]]]:
    """(heading, rows) of how the figures came about. Directories are left out: only names are shown."""
    about = {key: value for key, value in evidence.about.items() if key not in ("note", "versions")}
    if options.redact or not about.get(MARKS):
        about.pop(MARKS, None)
    if options.redact:
        about.pop("data", None)
    record = evidence.beside.record
    for key in ("model", "adapter", "data"):
        if about.get(key) is not None:
            about[key] = last_part(about[key])
    chosen = record.get("settings")
    trained = {
        key: record[key]
        for key in (
            "updates",
            "best_epoch",
            "best_by",
            "val_loss",
            "val_accuracy",
            "val_accuracy_interval",
            "trainable_parameters",
            "seconds",
        )
        if key in record
    }
    data = dict(record.get("data") or {}) if isinstance(record.get("data"), dict) else {}
    if options.redact:
        data.pop("name", None)
    sections: list[tuple[str, Any]] = [
        ("Evaluation", about),
        ("Versions at evaluation", evidence.about.get("versions")),
        ("Training settings", chosen),
        ("Training", trained),
        ("Training data", data),
        ("Versions at training", record.get("versions")),
    ]
    return [
        (heading, [(title(key), number(value)) for key, value in found.items()])
        for heading, found in sections
        if isinstance(found, dict) and found
    ]


def contents(evidence: Evidence, options: Options) -> list[str]:
    """What of the data this page holds, for its footer."""
    if options.redact:
        return [
            "Redacted: figures, counts and the names of modalities, error types and severities only.",
            "No case's text, no image, no id of a case or a patient, no dataset's name.",
        ]
    found = ["Every case's id, patient's id where there is one, labels and the model's answer."]
    if evidence.cases:
        found.append("Every case's text and its right answer.")
    if options.images and any(evidence.images.values()):
        found.append("Every case's images, made smaller.")
    else:
        found.append("No images.")
    found.append("Keep this page as you keep the dataset. `--redact` makes one without all of this.")
    return found
