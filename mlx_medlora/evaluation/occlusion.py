"""Which parts of an image move the answer: a window slides over it, and the case is scored anew each time.

After Zeiler and Fergus 2014, section 4.2. The window has the image's mean colour, which a dark or a stained
image takes for less of a finding than grey. Letters: G patches a side, K window positions a side, C channels,
H = W side of the image as the model sees it, T soft tokens, D width of the text stack.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.schema import Case
from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.evaluation.prompts import PromptMaker
from mlx_medlora.evaluation.readers import verdict_ids
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt, answer_log_probs

GRID = 7
GRIDS = (2, 56)
WINDOW = 2 / 7  # of a side; a smaller one leaves too much of a finding to be seen
AT_ONCE = 8  # windows through the tower and the text stack together

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Occluded:
    """One image of a case: `log_odds` of ERROR against CORRECT with it whole, in nats.

    `change` (G, G), rows from the top, is that less the log-odds with the patch hidden, the mean over the
    windows that hide it: above 0 the patch speaks for ERROR, below 0 for CORRECT.
    """

    case: Case
    file: Path
    log_odds: float
    change: npt.NDArray[np.float64]


def occlude(
    model: Base,
    encoder: Encoder,
    dataset: Dataset,
    case: Case,
    *,
    grid: int = GRID,
    progress: Progress | None = None,
) -> list[Occluded]:
    """Hide windows of each of the case's images in steps of a patch, `grid` a side; other images stay whole.

    Raises InputError for a case without an image, for one that
    the model cannot take, and for a grid finer than the image, MedloraError where a score is no number.
    """
    files = dataset.image_files(case)
    if not files:
        raise dataset.wrong(case, f"case {case.id!r} has no image to occlude")
    model.eval()
    ids = PromptMaker(model, encoder, dataset, [case]).outlines([case])[0].ids
    pixels = [encoder.pixels([open_image(file)])[0] for file in files]  # (C, H, W) each
    side = min(min(one.shape[1:]) for one in pixels)
    if not GRIDS[0] <= grid <= min(GRIDS[1], side):
        raise InputError(f"a grid of {grid} patches a side: it must be {GRIDS[0]} to {min(GRIDS[1], side)}")
    seen = [model.image_features(mx.array(one[None])) for one in pixels]  # (1, T, D) each
    words = verdict_ids(encoder)

    def log_odds(features: Sequence[mx.array]) -> npt.NDArray[np.float64]:
        found = answer_log_probs(model, [Prompt(ids, features=one) for one in features], words)
        if not np.isfinite(found).all():
            raise MedloraError(f"{case.where}: case {case.id!r} got a score that is not a number")
        return np.asarray(found[:, 0] - found[:, 1], np.float64)

    whole = float(log_odds([mx.concatenate(seen)])[0])
    places = windows(grid)
    made = []
    for number, (file, image) in enumerate(zip(files, pixels, strict=True)):
        values: list[float] = []
        for start in range(0, len(places), AT_ONCE):
            looked = model.image_features(mx.array(hidden(image, grid, places[start : start + AT_ONCE])))
            mixed = [mx.concatenate([*seen[:number], one[None], *seen[number + 1 :]]) for one in looked]
            values += log_odds(mixed).tolist()
            if progress is not None:
                progress(number * len(places) + len(values), len(files) * len(places))
        made.append(Occluded(case, file, whole, by_patch(whole - np.array(values), grid)))
    return made


def breadth(grid: int) -> int:
    """How many patches a window covers each way."""
    return max(1, round(WINDOW * grid))


def windows(grid: int) -> list[tuple[int, int]]:
    """Row and column of each window's first patch, K x K of them."""
    starts = range(grid - breadth(grid) + 1)
    return list(itertools.product(starts, starts))


def hidden(
    image: npt.NDArray[np.float32], grid: int, places: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float32]:
    """(C, H, W) -> (b, C, H, W): for each of `places` a copy with that window in the image's mean colour."""
    _, height, width = image.shape
    rows, columns = (np.rint(np.linspace(0, side, grid + 1)).astype(int) for side in (height, width))
    mean, size = image.mean(axis=(1, 2), keepdims=True), breadth(grid)
    copies = np.repeat(image[None], len(places), axis=0)
    for copy, (row, column) in zip(copies, places, strict=True):
        copy[:, rows[row] : rows[row + size], columns[column] : columns[column + size]] = mean
    return copies


def by_patch(changes: npt.NDArray[np.float64], grid: int) -> npt.NDArray[np.float64]:
    """(K * K,) changes of the windows -> (G, G) the mean over the windows that cover each patch."""
    size = breadth(grid)
    total, count = np.zeros((grid, grid)), np.zeros((grid, grid))
    for (row, column), change in zip(windows(grid), changes, strict=True):
        total[row : row + size, column : column + size] += change
        count[row : row + size, column : column + size] += 1
    return total / count


def chosen(cases: Sequence[Case], wanted: str) -> list[Case]:
    """The cases of a list of ids with commas between.

    Raises InputError for an id that is unknown, or whose case has no image.
    """
    known = {case.id: case for case in cases}
    names = [wanted] if wanted in known else [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in known:
            hint = f"Ids of this split begin: {', '.join(list(known)[:5])}."
            raise InputError(f"--occlusion: no case has the id {name!r}", hint=hint)
        if not known[name].image_paths:
            raise InputError(f"--occlusion: case {name!r} has no image")
    if not names:
        raise InputError("--occlusion names no case", hint="Give ids: --occlusion case_1,case_2")
    return [known[name] for name in dict.fromkeys(names)]
