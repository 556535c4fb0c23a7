"""Answers without a model."""

from typing import Any

from mlx_medlora.evaluation.results import Prediction


def prediction(number: int, label: str, said: str | None, **more: Any) -> Prediction:
    """An answer read from text; `more` takes the place of these fields."""
    fields: dict[str, Any] = {
        "id": f"case_{number}",
        "modality": "xray",
        "label": label,
        "predicted": said,
        "correct": label == said,
        "method": "generate",
        "p_error": None,
        "text": said,
        "patient_id": None,
        "error_type": "none" if label == "CORRECT" else "overtreatment",
        "severity": "none" if label == "CORRECT" else "high",
        "image_paths": (),
    }
    return Prediction.model_validate(fields | more)
