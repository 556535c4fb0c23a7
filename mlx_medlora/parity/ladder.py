"""The ladder: eleven rungs and two probes on one checkpoint, and the certificate of what they found."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlx_medlora import __version__
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.fingerprint import fingerprint
from mlx_medlora.gemma.hub import resolve
from mlx_medlora.gemma.processor import load_processor
from mlx_medlora.parity import exchange, forward, inputs, probes, reference, steps, writing
from mlx_medlora.parity.parting import first_parting
from mlx_medlora.parity.results import Probe, Rung
from mlx_medlora.parity.sides import Sides, get_adapter, open_config
from mlx_medlora.settings import StrictModel

RUNGS: tuple[Callable[[Sides], Rung], ...] = (
    forward.pixels,
    forward.tokens,
    forward.features,
    forward.logits,
    forward.loss,
    forward.gradients,
    steps.training,
    exchange.adapters,
    exchange.fused,
    writing.generation,
    writing.quantised,
)
PROBES: tuple[Callable[[Sides], Probe], ...] = (probes.causality, probes.image_dependence)
_PACKAGES = ("mlx", "transformers", "torch", "peft", "numpy", "tokenizers", "pillow")


class Certificate(StrictModel):
    """Versions, hashes and every figure of one run of the ladder."""

    format_version: int = 1
    passed: bool
    model: str
    fingerprint: str
    adapter: str
    adapter_sha256: str
    rows_sha256: str
    rows: tuple[str, ...]
    rungs: tuple[Rung, ...]
    probes: tuple[Probe, ...]
    first_parting: str | None
    versions: dict[str, str]
    platform: str
    made: str

    @property
    def failures(self) -> list[str]:
        """The names of what failed."""
        failed = [f"rung {rung.number} ({rung.name})" for rung in self.rungs if rung.status == "failed"]
        return failed + [probe.name for probe in self.probes if probe.status == "failed"]


def open_sides(
    model: str | Path, *, adapter: Path | None = None, data: Path | None = None, cases: int = 4
) -> Sides:
    """Both sides on `cases` rows of `data`, or generated ones; the adapter given, or one with noise.

    Raises InputError where torch or PEFT are absent, transformers cannot load the model, or the adapter
    or data do not fit.
    """
    reference.require()
    if cases < 1:
        raise InputError(f"{cases} cases are too few to compare on", hint="Give --cases 1 or more.")
    directory = resolve(model)
    config = open_config(directory)
    processor = load_processor(directory)
    talks = inputs.generated(cases, config) if data is None else inputs.from_dataset(data, cases)
    rows = inputs.reference_rows(talks, processor, config)
    return Sides(directory, config, processor, rows, get_adapter(directory, config, adapter))


def climb(
    sides: Sides,
    *,
    only: Sequence[int] = (),
    told: Callable[[str], None] | None = None,
    adapter: str = "noise on q, v and o",
) -> Certificate:
    """Run the rungs (those in `only`, or all) and the probes; `told` hears each name as it begins."""
    with reference.threads(sides.config.text.hidden_size):
        return _climb(sides, only, told, adapter)


def _climb(
    sides: Sides, only: Sequence[int], told: Callable[[str], None] | None, adapter: str
) -> Certificate:
    rungs: list[Rung] = []
    for number, rung in enumerate(RUNGS, 1):
        if not only or number in only:
            if told is not None:
                told(f"rung {number} of {len(RUNGS)}")
            rungs.append(rung(sides))
    found = [] if only else [probe(sides) for probe in PROBES]
    failed = "failed" in {rung.status for rung in rungs} | {probe.status for probe in found}
    return Certificate(
        passed=not failed,
        model=sides.directory.resolve().name,
        fingerprint=fingerprint(sides.directory, sides.config),
        adapter=adapter,
        adapter_sha256=_hash(sides.adapter.tensors),
        rows_sha256=_hash({str(index): row.ids for index, row in enumerate(sides.rows)}),
        rows=tuple(row.name for row in sides.rows),
        rungs=tuple(rungs),
        probes=tuple(found),
        first_parting=first_parting(sides) if failed else None,
        versions={"mlx-medlora": __version__} | {name: version(name) for name in _PACKAGES},
        platform=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _hash(arrays: dict[str, Any]) -> str:
    digest = sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
