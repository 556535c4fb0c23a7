from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["mlx_medlora.training.run", "mlx_medlora.lora.load"])
def test_the_fast_blas_comes_before_mlx(module: str) -> None:
    """Importing mlx first leaves Linux with a reference BLAS, five times slower a training step."""
    code = f"import {module}\nfrom mlx_medlora.backend import load_blas\nprint(load_blas().reason)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "mlx was imported before" not in said
