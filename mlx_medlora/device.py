"""The device's memory: how much of it a run may use, and what MLX is told so that it stays within that."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import psutil

SHARE = 0.75  # of the machine's memory, where the device names no working set of its own
CACHE = 10**9  # bytes of freed buffers that MLX may keep for reuse


def usable_memory() -> int:
    """Bytes that a run's arrays may take: Metal's recommended working set less MLX's cache, or else three
    quarters of all memory: the CPU backend has no cache.
    """
    if mx.metal.is_available():
        return _working_set() - CACHE
    return int(psutil.virtual_memory().total * SHARE)


def _working_set() -> int:
    return int(mx.device_info()["max_recommended_working_set_size"])


@lru_cache(maxsize=1)
def prepare() -> None:
    """Once in a process, on Apple hardware: wire memory within the recommended working set, cap the cache.

    Wired memory is not swapped or compressed while the display or another program wants some. Without a cap
    MLX keeps every buffer that it ever freed, and a run's memory grows with each new shape.
    """
    if not mx.metal.is_available():
        return
    mx.set_wired_limit(_working_set())
    mx.set_cache_limit(CACHE)
