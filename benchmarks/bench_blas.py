"""Claim: on Linux a system OpenBLAS makes MLX's fp32 matrix products many times faster.

Two processes, one with OpenBLAS loaded and one without, take turns in one run; their ratio is what counts.
"""

import argparse
import os
import statistics
import subprocess
import sys

PROGRAM = """
import time, mlx_medlora.gemma, mlx.core as mx
a, b = mx.random.normal((1024, 1024)), mx.random.normal((1024, 1024))
mx.eval(a @ b)
best = 1e9
for _ in range(5):
    start = time.perf_counter(); mx.eval(a @ b); best = min(best, time.perf_counter() - start)
print(2 * 1024**3 / best / 1e9)
"""
TURNS = 5


def rate(with_openblas: bool) -> float:
    """Best GFLOP/s of one process."""
    hidden = {} if with_openblas else {"MEDLORA_NO_OPENBLAS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | hidden, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one turn only")
    turns = 1 if parser.parse_args().quick else TURNS
    pairs = [(rate(True), rate(False)) for _ in range(turns)]
    ratios = sorted(fast / slow for fast, slow in pairs)
    fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"with OpenBLAS {fast:.0f} GFLOP/s, without {slow:.1f} GFLOP/s (medians of {turns})")
    print(f"ratio {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


if __name__ == "__main__":
    main()
