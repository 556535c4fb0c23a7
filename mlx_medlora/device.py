"""The device's memory: how much of it a run may use, and what MLX is told so that it stays within that."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import psutil

SHARE = 0.75  # of the machine's memory, where the device names no working set of its own
_CACHE = 8  # one part of the usable memory may lie in MLX's cache of freed buffers


def usable_memory() -> int:
    """Bytes that a run may use: Metal's recommended working set, or else three quarters of all memory."""
    if mx.metal.is_available():
        return int(mx.device_info()["max_recommended_working_set_size"])
    return int(psutil.virtual_memory().total * SHARE)


@lru_cache(maxsize=1)
def prepare() -> None:
    """Once in a process, on Apple hardware: wire memory within the recommended working set, cap the cache.

    Wired memory is not swapped or compressed while the display or another program wants some. Without a cap
    MLX keeps every buffer that it ever freed, and a run's memory grows with each new shape.
    """
    if not mx.metal.is_available():
        return
    limit = usable_memory()
    mx.set_wired_limit(limit)
    mx.set_cache_limit(limit // _CACHE)
