"""What `eval` says and writes of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mlx_medlora.evaluation.results import GateReport, Scorecard


def write_report(run: Path) -> None:
    """report.html into the run's directory. Where that fails the answers, hours of work perhaps, are kept."""
    from mlx_medlora.errors import NoSpace
    from mlx_medlora.evaluation.runs import read_run
    from mlx_medlora.files import disk_is_full
    from mlx_medlora.privacy import may_hold_cases
    from mlx_medlora.report.page import PAGE, write_page
    from mlx_medlora.report.sources import gather

    try:
        with out.progress("report.html") as step:
            write_page(run / PAGE, gather(read_run(run)), progress=step)
    except Exception as error:  # whatever it was, the figures are right and already written
        if isinstance(error, NoSpace) or disk_is_full(error):
            raise
        reason = type(error).__name__ + ("" if may_hold_cases() else f": {error}")
        out.warning(f"{PAGE} was not written ({reason}); `mlx-medlora report` tries again")


def renderables(columns: dict[str, Scorecard], card: Scorecard, report: GateReport) -> list[RenderableType]:
    """For the terminal: figures, misses, gates, calibration, how many cases it takes, the notice."""
    from mlx_medlora.evaluation.tables import calibration_line, gates_table, misses_table, scorecard_table

    shown: list[RenderableType] = [scorecard_table(columns, more=True)]
    if card.misses.rows:
        shown.append(misses_table(card.misses))
    shown.append(gates_table(report))
    if card.calibration is not None:
        shown.append(f"Calibration: {calibration_line(card.calibration)}")
    if card.operating_point is not None:
        used = card.operating_point
        shown.append(
            f"Operating point: ERROR from {used.threshold:.4f} on, after temperature {used.temperature:.3f} "
            f"({used.rule} {used.limit:g}, chosen on {used.n} cases of {used.split})"
        )
    if card.sample_size is not None:
        shown.append(card.sample_size.sentence)
    return [*shown, card.notice]


def about_run(
    model: str, adapter: Path | None, data: Path, split: str, method: str, split_sha256: str
) -> dict[str, Any]:
    """What was evaluated and how, for scorecard.json."""
    from mlx_medlora import __version__
    from mlx_medlora.evaluation.adapters import DIGEST, FINGERPRINTS, MARKS, digest
    from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
    from mlx_medlora.gemma.hub import resolve
    from mlx_medlora.gemma.manifest import trained_on
    from mlx_medlora.training.record import versions

    place = resolve(model)
    told = dict(zip(FINGERPRINTS, (fingerprint(place), source_fingerprint(place)), strict=True))
    return {
        "model": model,
        **told,
        MARKS: [mark.model_dump(mode="json") for mark in trained_on(place)],
        "adapter": None if adapter is None else str(adapter),
        DIGEST: None if adapter is None else digest(adapter),
        "data": str(data),
        "split": split,
        "split_sha256": split_sha256,
        "method": method,
        "mlx_medlora": __version__,
        "versions": versions(),
    }
