"""Runs on disk without a model: cases with images, answers, and what `eval` writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.evaluation.gate import Gate, card_gates, judge
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.results import AppliedPoint, Prediction
from mlx_medlora.evaluation.runner import Evaluation, write_evaluation

MODALITIES = ("xray", "mri", "ultrasound", "histopathology")
HOSTILE = (
    '<script>document.title = "stolen"</script>\n</script><img src=x onerror="document.title=1">\n'
    "</style><style>body{display:none}</style>\n"
    "{{ 7 * 7 }} ${7 * 7} &lt;b&gt; \u2028 \u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd \x07\n"
    "https://example.com/track.png <!-- ]]>"
)
LONG = "w" * 50_000
# A threshold that was chosen on the very cases it is used for.
POINT = AppliedPoint(
    temperature=1.5,
    threshold=0.4321,
    rule="max-false-flag",
    limit=0.05,
    split="test",
    split_sha256="a",
    n=60,
    same_cases=True,
)


def row(number: int, label: str = "ERROR", **more: Any) -> dict[str, Any]:
    """A dataset's row, with an image of its own."""
    wrong = label == "ERROR"
    metadata = {
        "modality": MODALITIES[number % 4],
        "error_type": ("overtreatment", "undertreatment")[number % 2] if wrong else "none",
        "severity": ("critical", "high", "moderate", "low")[number % 4] if wrong else "none",
    }
    return {
        "id": f"case_{number:04d}",
        "instruction": "Compare the treatment with the image. Answer ERROR or CORRECT.",
        "input": f"Age: {20 + number}. Finding number {number}.",
        "output": f"{label} - because of finding {number}",
        "image_path": f"images/{number}.png",
        "metadata": metadata | more.pop("metadata", {}),
        **more,
    }


def write_dataset(directory: Path, rows: Sequence[dict[str, Any]], size: int = 48) -> Path:
    """A dataset directory with the split `test` and an image of noise for each row."""
    (directory / "images").mkdir(parents=True)
    for number, one in enumerate(rows):
        if one.get("image_path"):
            pixels = np.random.default_rng(number).integers(0, 255, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(directory / one["image_path"])
    lines = [json.dumps(one) for one in rows]
    (directory / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory


def write_run(
    output: Path,
    data: Path,
    p_error: Sequence[float | None],
    *,
    by: Sequence[str] = (),
    generated: bool = False,
    gates: Sequence[Gate] | None = None,
    **about: Any,
) -> Path:
    """What `eval` writes for cases that got these probabilities of ERROR; None is an unreadable answer."""
    dataset = Dataset.open(data)
    answers = []
    for case, p in zip(dataset.cases("test"), p_error, strict=True):
        said = None if p is None else "ERROR" if p >= 0.5 else "CORRECT"
        fields: dict[str, Any] = {
            "id": case.id,
            "modality": case.metadata.modality,
            "label": case.label,
            "predicted": said,
            "correct": said == case.label,
            "method": "generate" if generated else "score",
            "p_error": None if generated else p,
            "threshold": None if generated or p is None else 0.5,
            "text": f"{said} - as the model wrote" if generated else None,
            "patient_id": case.patient_id,
            "error_type": case.metadata.error_type,
            "severity": case.metadata.severity,
            "image_paths": case.image_paths,
            "metadata": case.metadata.model_dump(mode="json"),
        }
        answers.append(Prediction.model_validate(fields))
    card = score(answers, by=list(by))
    card = card.model_copy(update={"gates": judge(card_gates() if gates is None else gates, card)})
    told = {"model": "models/medgemma-4b", "adapter": None, "data": str(data), "split": "test"}
    told |= {"split_sha256": dataset.fingerprint("test"), "method": answers[0].method, **about}
    write_evaluation(output, Evaluation(answers), told, card)
    return output


def usual(directory: Path, n: int = 60, **more: Any) -> Path:
    """A run of `n` cases: half errors, some missed, one flagged, one near the threshold."""
    rows = [
        row(number, "ERROR" if number % 8 < 4 else "CORRECT", patient_id=f"patient-{number // 2}")
        for number in range(n)
    ]
    data = write_dataset(directory / "data", rows)
    given = [0.93 if one["output"].startswith("ERROR") else 0.04 for one in rows]
    given[0] = given[9] = 0.2  # a critical and a high error missed
    given[4] = 0.8  # a valid treatment flagged
    given[10] = 0.55  # right, and near the threshold
    return write_run(directory / "run", data, given, **more)
