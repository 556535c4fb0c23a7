"""The linear algebra under MLX's CPU backend.

The Linux wheel of MLX carries a reference BLAS. A system OpenBLAS that is loaded with global symbols
before `mlx.core` takes its place: 24 to 31 times faster fp32 matrix products (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from functools import lru_cache

NAMES = ("libopenblas.so.0", "libopenblas.so")


@dataclass(frozen=True)
class Blas:
    """What happened: `library` is the loaded name or None, `reason` says why in words."""

    library: str | None
    reason: str


@lru_cache(maxsize=1)
def load_blas() -> Blas:
    """Load a system OpenBLAS for MLX's CPU backend, once, before `mlx.core`.

    Does nothing on macOS (Accelerate and Metal serve there), where MEDLORA_NO_OPENBLAS is set, or
    where `mlx.core` is already imported, since its symbols are bound by then.
    """
    if sys.platform != "linux":
        return Blas(None, "not needed on this platform")
    if os.environ.get("MEDLORA_NO_OPENBLAS"):
        return Blas(None, "MEDLORA_NO_OPENBLAS is set")
    if "mlx.core" in sys.modules:
        return Blas(None, "mlx was imported before mlx_medlora: import mlx_medlora first")
    for name in NAMES:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return Blas(name, "loaded")
    return Blas(None, "no system OpenBLAS: install it with `apt-get install libopenblas0-pthread`")
