"""Fine-tune MedGemma on the Mac on the desk, with MLX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlx_medlora.backend import load_blas
from mlx_medlora.network import turn_off_advice, turn_off_telemetry

__version__ = "0.1.0"
__all__ = ["__version__", "load", "load_model"]

turn_off_telemetry()  # before a library reads its environment
turn_off_advice()
load_blas()  # before anything can import mlx.core, whose symbols are bound from then on

if TYPE_CHECKING:
    from mlx_medlora.lora.load import load, load_model


def __getattr__(name: str) -> Any:
    """Import the two loaders when they are first asked for: MLX takes longer than `--help` may."""
    if name in ("load", "load_model"):
        from mlx_medlora.lora import load as loaders

        return getattr(loaders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
