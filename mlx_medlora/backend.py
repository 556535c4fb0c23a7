"""The linear algebra under MLX's CPU backend.

The Linux wheel of MLX carries a reference BLAS. A system OpenBLAS that is loaded with global symbols
before `mlx.core` takes its place: 24 to 31 times faster fp32 matrix products (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from dataclasses import dataclass
from functools import lru_cache

from mlx_medlora.errors import OutOfMemory

NAMES = ("libopenblas.so.0", "libopenblas.so")
_BUFFERS = {"MLX_MAX_OPS_PER_BUFFER": "16", "MLX_MAX_MB_PER_BUFFER": "40"}
_LIBRARIES, _THREAD = 3 << 29, 1 << 28  # bytes of address space: libraries, and each processor's threads
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h


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
    if sys.platform == "darwin":
        _shorten_buffers()
    if sys.platform != "linux":
        return Blas(None, "not needed on this platform")
    _keep_pages()
    if _address_space_lacks():
        return Blas(None, "the limit on address space (ulimit -v) leaves no room for it")
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


def refuse_tight_limit() -> None:
    """Raise OutOfMemory under a `ulimit -v` that is too tight for the libraries alone.

    OpenBLAS, which NumPy and SciPy carry too, would ask for memory for ever as it loads.
    """
    if lacking := _address_space_lacks():
        limit, needed = (f"{size / 2**30:.2f} GiB" for size in lacking)
        raise OutOfMemory(
            f"this process may use {limit} of address space; MLX, OpenBLAS and transformers need {needed} "
            "before any model",
            hint="Raise or lift the limit: ulimit -v unlimited",
        )


def _address_space_lacks() -> tuple[int, int] | None:
    """The limit on address space and what is needed, where that is more."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    needed = _LIBRARIES + _THREAD * (os.cpu_count() or 1)
    return (limit, needed) if limit != resource.RLIM_INFINITY and limit < needed else None


def _shorten_buffers() -> None:
    """Commit Metal's command buffers early, unless the user has chosen otherwise.

    macOS ends a process whose command buffer keeps the display waiting for seconds; a few layers of 27B in
    one buffer can. MLX reads these names once, when its device is made.
    """
    for name, value in _BUFFERS.items():
        os.environ.setdefault(name, value)


def _keep_pages() -> None:
    """Let glibc keep freed memory up to 32 MiB a block instead of giving each back to the kernel.

    MLX's CPU backend allocates every result anew; with glibc's defaults each then costs a page fault for
    every 4 KiB, which took longer than the arithmetic of an elementwise operation.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    for parameter, value in ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_THRESHOLD, 32 << 20), (_ARENA_MAX, 1)):
        mallopt(parameter, value)


def blas_kernel() -> str:
    """The loaded OpenBLAS's name, processor kernel and threads, which decide a product's last bits; or ""."""
    name = load_blas().library
    if name is None:
        return ""
    library = ctypes.CDLL(name)
    try:
        library.openblas_get_corename.restype = ctypes.c_char_p
        kernel, threads = library.openblas_get_corename().decode(), library.openblas_get_num_threads()
    except AttributeError:  # another BLAS under that name
        return name
    return f"{name} {kernel} {threads} threads"
