"""What to do about a fault: the dataset card's remedies, those left out that the run had already."""

from __future__ import annotations

from typing import Any

from mlx_medlora.evaluation.results.health import Kind


def remedies(kind: Kind, settings: dict[str, Any]) -> str:
    """Advice as one sentence; `settings` are the run's by name, the recipe's defaults where unknown."""
    dropout, rank = settings.get("dropout", 0.1), settings.get("rank", 16)
    rate, epochs = settings.get("lr", 2e-4), settings.get("epochs", 3)
    if kind == "overfitting":
        found = [
            f"raise --dropout from {dropout:g} to 0.2" if dropout < 0.2 else "",
            "stop early with --patience 1" if settings.get("patience") is None else "",
            f"lower --lr from {rate:g} to 1e-4" if rate > 1e-4 else "",
            "train on more cases",
        ]
    elif kind == "underfitting":
        found = [
            f"raise --rank from {rank} to 32" if rank < 32 else "",
            f"train longer (--epochs {2 * epochs})",
            f"raise --lr from {rate:g} to 2e-4" if rate < 2e-4 else "",
            "look whether the answers follow from what the cases show",
        ]
    else:
        found = [
            f"lower --lr from {rate:g} to 1e-4" if rate > 1e-4 else "",
            "mix general rows in (--replay FILE --replay-share 0.2)" if not settings.get("replay") else "",
            f"train for fewer epochs than {epochs}" if epochs > 1 else "",
            f"lower --rank from {rank} to 16" if rank > 16 else "",
            "raise --replay-share" if settings.get("replay") else "",
        ]
    listed = [part for part in found if part]
    text = ", or ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
    return f"{text[:1].upper()}{text[1:]}." if text else "Train on fewer steps, or on fewer layers."
