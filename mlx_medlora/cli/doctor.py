"""`doctor`: the machine, its versions, and whether the fast parts are in place."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from mlx_medlora import __version__
from mlx_medlora.cli.options import Json, Offline, Verify, examples, verify_model
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

PACKAGES = (
    "mlx-medlora",
    "mlx",
    "mlx-lm",
    "transformers",
    "huggingface-hub",
    "safetensors",
    "numpy",
    "pillow",
)
GIB = 2**30

EXAMPLES = examples(
    "mlx-medlora doctor",
    "mlx-medlora doctor --json",
    "mlx-medlora doctor --model models/medgemma-4b --verify",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("doctor", epilog=EXAMPLES)(doctor)


def doctor(
    model: Annotated[
        str | None,
        typer.Option(help="A model to check as well: are its files whole?", metavar="MODEL"),
    ] = None,
    verify: Verify = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Say what this machine offers and lacks, and whether a model's files are whole."""
    out.use_json(json)
    if verify and model is None:
        raise InputError("--verify is given without --model", hint="Say which model: --model DIR.")
    checked = {} if model is None else {"model": _checked(model, verify)}
    found = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {"mlx-medlora": __version__, **{name: _version(name) for name in PACKAGES}},
        **_mlx(),
        "memory": _memory(),
        "disk_free_gib": _gib(shutil.disk_usage(Path.cwd()).free),
        "embedded_model": _embedded(),
        **checked,
    }
    out.result(found, _table(found))
    for advice in _advice(found):
        out.warning(advice)


def _checked(model: str, verify: bool) -> dict[str, Any]:
    """Where a model is and what was compared. Raises InputError naming a file that is not as it was."""
    from mlx_medlora.gemma.hub import resolve
    from mlx_medlora.gemma.manifest import MANIFEST
    from mlx_medlora.gemma.weights import open_checkpoint

    verify_model(model, verify)
    directory = resolve(model, offline=True)
    open_checkpoint(directory)  # headers: shards that are missing or cut off
    sizes = "compared with the manifest" if (directory / MANIFEST).is_file() else "of its weights fit"
    return {"path": str(directory), "sizes": sizes, "hashes": "compared" if verify else "not compared"}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _mlx() -> dict[str, Any]:
    from mlx_medlora.backend import load_blas

    blas = load_blas()  # must come before mlx
    import mlx.core as mx

    return {
        "device": str(mx.default_device()),
        "metal": mx.metal.is_available(),
        "openblas": {"library": blas.library, "reason": blas.reason},
        "matmul_gflops": round(_matmul_gflops(), 1),
    }


def _matmul_gflops(size: int = 1024, repeats: int = 3) -> float:
    """Best fp32 rate, in GFLOP/s, of `repeats` products of two size x size matrices."""
    from time import perf_counter

    import mlx.core as mx

    a = mx.random.normal((size, size))
    mx.eval(a, a @ a)
    best = float("inf")
    for _ in range(repeats):
        start = perf_counter()
        mx.eval(a @ a)
        best = min(best, perf_counter() - start)
    return 2 * size**3 / best / 1e9


def _memory() -> dict[str, float]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total_gib": _gib(memory.total), "available_gib": _gib(memory.available)}


def _gib(size: int) -> float:
    return round(size / GIB, 1)


def _embedded() -> dict[str, Any]:
    from mlx_medlora.errors import MedloraError
    from mlx_medlora.gemma.hub import EMBEDDED, resolve

    try:
        directory = resolve(EMBEDDED)
    except MedloraError as error:
        return {"present": False, "reason": str(error)}
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    return {"present": True, "path": str(directory), "mib": round(size / 2**20, 1)}


def _table(found: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in found.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), shown)
    return table


def _advice(found: dict[str, Any]) -> list[str]:
    """What a person should mend, in the order of what it costs them."""
    advice = []
    if not found["embedded_model"]["present"]:
        advice.append("the embedded model is missing: `demo` cannot run")
    if sys.platform == "linux" and found["openblas"]["library"] is None and not found["metal"]:
        advice.append(f"matrix products are slow ({found['openblas']['reason']})")
    if sys.platform == "darwin" and not found["metal"]:
        advice.append("MLX sees no Metal GPU: training will be slow")
    return advice
