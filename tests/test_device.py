"""What MLX is told on Apple hardware, which is not here: the calls are watched."""

from __future__ import annotations

import os
import subprocess
import sys

import mlx.core as mx
import psutil
import pytest

from mlx_medlora import backend, device


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    told: list[tuple[str, int]] = []
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "device_info", lambda *_: {"max_recommended_working_set_size": 24_000_000_000})
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: told.append(("wired", limit)))
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: told.append(("cache", limit)))
    device.prepare.cache_clear()
    yield told
    device.prepare.cache_clear()


def test_memory_is_wired_within_the_working_set_and_the_cache_is_capped(metal: list[tuple[str, int]]) -> None:
    device.prepare()
    device.prepare()
    assert metal == [("wired", 24_000_000_000), ("cache", 1_000_000_000)]
    assert device.usable_memory() == 23_000_000_000


def test_elsewhere_nothing_is_told_and_three_quarters_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "set_cache_limit", lambda limit: pytest.fail("no Metal here"))
    device.prepare.cache_clear()
    device.prepare()
    assert device.usable_memory() == int(psutil.virtual_memory().total * 0.75)


def test_command_buffers_are_short_on_macos_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "99")
    monkeypatch.setenv("MLX_MAX_MB_PER_BUFFER", "")
    monkeypatch.delenv("MLX_MAX_MB_PER_BUFFER")
    backend.load_blas.cache_clear()
    try:
        backend.load_blas()
        assert os.environ["MLX_MAX_OPS_PER_BUFFER"] == "99"
        assert os.environ["MLX_MAX_MB_PER_BUFFER"] == "40"
    finally:
        backend.load_blas.cache_clear()


PAGES = """
import mlx_medlora, resource, mlx.core as mx
a = mx.zeros((1, 1_500_000)); mx.eval(a)
for _ in range(5): mx.eval(a + 1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50): mx.eval(a + 1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """Six megabytes are 1,465 pages; without the setting each of 50 results faults on most of them."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * 1465
