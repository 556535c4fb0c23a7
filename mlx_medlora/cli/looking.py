"""What `eval --dependence` and `--occlusion` do beside answering: asking again, and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

if TYPE_CHECKING:
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.cases.schema import Case
    from mlx_medlora.cli.answering import Session
    from mlx_medlora.evaluation.occlusion import Occluded
    from mlx_medlora.evaluation.results import Dependence, OcclusionPicture, Prediction

FOLDER = "occlusion"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Looking:
    """What was asked for; `cases` are those to occlude."""

    dependence: bool
    cases: Sequence[Case]
    grid: int

    @property
    def wanted(self) -> bool:
        """Whether anything was."""
        return self.dependence or bool(self.cases)


@dataclass(frozen=True)
class Seen:
    """What came of it."""

    dependence: Dependence
    occluded: list[Occluded]

    def write(self, run: Path) -> None:
        """Write `dependence.json`, and the pictures under `occlusion/`."""
        from mlx_medlora.evaluation.runs import DEPENDENCE
        from mlx_medlora.files import write_json

        pictures = self._draw(run)
        whole = self.dependence.model_copy(update={"occlusion": pictures})
        write_json(run / DEPENDENCE, whole.model_dump(mode="json"))

    def _draw(self, run: Path) -> list[OcclusionPicture]:
        import math

        from mlx_medlora.cases.images import open_image
        from mlx_medlora.evaluation.results import OcclusionPicture
        from mlx_medlora.report.overlay import draw_overlay

        pictures = []
        for number, one in enumerate(self.occluded, start=1):
            name = f"{FOLDER}/{number:03d}_{_UNSAFE.sub('_', one.case.id)[:60]}.png"
            (run / FOLDER).mkdir(exist_ok=True)
            p = 1 / (1 + math.exp(-max(-50.0, min(50.0, one.log_odds))))
            title = f"{one.case.id}\nright answer {one.case.label}; probability of ERROR {p:.3f}"
            draw_overlay(run / name, open_image(one.file), one.change, title)
            pictures.append(OcclusionPicture(id=one.case.id, path=name))
        return pictures


def asked_for(
    dataset: Dataset, split: str, method: str, *, dependence: bool, occlusion: str | None, grid: int
) -> Looking:
    """Check the flags before a model loads. Raises InputError where they cannot be followed."""
    from mlx_medlora.evaluation.occlusion import chosen

    cases = dataset.cases(split)
    if dependence and method != "score":
        raise InputError("--dependence compares probabilities", hint="Leave --method generate out.")
    if dependence and not any(case.image_paths for case in cases):
        raise InputError(f"--dependence: no case of {split!r} has an image", path=dataset.root)
    return Looking(dependence, [] if occlusion is None else chosen(cases, occlusion), grid)


def look(
    session: Session,
    dataset: Dataset,
    split: str,
    predictions: list[Prediction],
    looking: Looking,
    decide: Callable[[list[Prediction]], list[Prediction]],
    batch_size: int | None,
) -> Seen:
    """Ask again as `looking` wants; `decide` puts the operating point's threshold to new answers."""
    from mlx_medlora.evaluation.dependence import measure_dependence
    from mlx_medlora.evaluation.occlusion import occlude
    from mlx_medlora.evaluation.saying import NOT_MEASURED, warnings_of

    def answer(altered: Dataset, name: str) -> list[Prediction]:
        found = session.answer(altered, split, f"asking again, {name}", batch_size=batch_size)
        return decide(found.predictions)

    found = (
        measure_dependence(answer, session.encoder, dataset, split, predictions)
        if looking.dependence
        else NOT_MEASURED
    )
    for warning in warnings_of(found):
        out.warning(f"does it look? The verdict: {warning}")
    occluded: list[Occluded] = []
    for case in looking.cases:
        with out.progress(f"occluding {case.id}") as step:
            occluded += occlude(
                session.network, session.encoder, dataset, case, grid=looking.grid, progress=step
            )
    return Seen(found, occluded)
