"""From a table and its images, or from nothing, to a dataset directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from mlx_medlora.atomic import refuse_nonempty
from mlx_medlora.cases import phantoms
from mlx_medlora.cases.card import INSTRUCTION, Label
from mlx_medlora.cases.concerns import Placed, concerns, shared_images
from mlx_medlora.cases.image_folder import ImageFolder, copy_images, unique_names
from mlx_medlora.cases.schema import Case, Metadata
from mlx_medlora.cases.source import DataSource, read_source
from mlx_medlora.cases.splitting import Keys, assign, largest_group, split_sizes
from mlx_medlora.cases.statistics import Statistics
from mlx_medlora.cases.table import SourceCase, read_table
from mlx_medlora.cases.vignettes import vignette
from mlx_medlora.cases.writing import IMAGES, write_dataset
from mlx_medlora.errors import InputError

Cell = tuple[str, bool, Label]  # modality, whether the image has a finding, label
Drawing = Callable[[], Image.Image]

_LABELS: tuple[Label, ...] = ("CORRECT", "ERROR")
CELLS: tuple[Cell, ...] = tuple(product(phantoms.MODALITIES, (True, False), _LABELS))

_TABLE_README = """# Prepared cases

Each row has an instruction, the case's text, the answer and its images.
{apart}

Images are copied as they were: check that neither pixels nor file headers name a patient before this
directory leaves your machine.
"""

_PHANTOM_README = """# Phantom cases

The images are drawings made by a program, and the cases were put together from phrases. They show and test
the way from cases to a trained adapter. They are not clinical data, and nothing learned from them may guide
care. No image is in two splits.
"""


class PreparedDataset(Statistics):
    """What was written, and where; `warnings` are sentences on what should be looked at."""

    output: Path
    data_source: DataSource | None = None
    warnings: list[str] = Field(default_factory=list)


def _mark(cases_file: Path, given: DataSource | None) -> DataSource | None:
    found = read_source(cases_file.parent)
    if given is None or found is None or found == given or not found.credentialed:
        return given or found
    raise InputError(
        f"these rows are marked as credentialed data already ({found}), and {given} would hide that",
        path=cases_file,
        hint="Leave out --credentialed: rows of a prepared dataset bring their mark along.",
    )


def prepare_table(
    cases_file: Path,
    images_dir: Path | None,
    output: Path,
    *,
    val: float = 0.2,
    test: float = 0.0,
    seed: int = 0,
    data_source: DataSource | None = None,
) -> PreparedDataset:
    """Turn a CSV, JSON or JSON Lines table and a folder of images into a dataset directory.

    `data_source` marks where the data comes from; rows of another dataset's directory bring its mark along.
    `val` and `test` are shares below 1, or counts. Cases of one `patient_id` stay in one split, and so do
    those of one image, unless that leaves fewer groups than splits; `warnings` say so then.
    Raises InputError, listing all bad rows with their lines, and then writes nothing; also where a mark would
    take the place of another, credentialed one.
    """
    refuse_nonempty(output)
    mark = _mark(cases_file, data_source)
    folder = ImageFolder(images_dir)
    sources = read_table(cases_file, folder.find)
    sizes = split_sizes(len(sources), {"val": val, "test": test})
    placed, largest = _place(sources, folder, sizes, seed)
    names = unique_names(path for source in sources for path in source.images)
    splits: dict[str, list[Case]] = {side: [] for side in ("train", "val", "test") if side in sizes}
    for source, one in zip(sources, placed, strict=True):
        splits[one.side].append(_renamed(source, names))

    def write_images(directory: Path) -> None:
        copy_images(names, directory)

    readme = _TABLE_README.format(apart=_kept_apart(placed))
    counts = write_dataset(output, splits, write_images, readme, mark)
    found = concerns(placed, sizes, largest)
    return PreparedDataset(**counts.model_dump(), output=output, data_source=mark, warnings=found)


def prepare_phantoms(
    n: int, output: Path, *, val: float = 0.2, test: float = 0.0, seed: int = 0, size: int = 224
) -> PreparedDataset:
    """Write a dataset of `n` phantom cases in all, each with its own image of `size` pixels a side.

    `val` and `test` are shares below 1, or counts. Every split holds each modality, with and without a
    finding, right and wrong, equally often (within one). The same seed gives the same dataset.
    """
    if n < 1:
        raise InputError(f"the number of phantoms must be at least 1, not {n}")
    refuse_nonempty(output)
    rng = np.random.default_rng([seed, 0])
    sizes = split_sizes(n, {"val": val, "test": test})
    cells = {side: balanced_cells(count, rng) for side, count in sizes.items()}
    splits: dict[str, list[Case]] = {side: [] for side in sizes}
    drawings: list[Drawing] = []
    for side, cell in ((side, cell) for side, held in cells.items() for cell in held):
        case, drawing = phantom_case(cell, len(drawings), seed, size)
        splits[side].append(case)
        drawings.append(drawing)

    def write_images(directory: Path) -> None:
        directory.mkdir()
        for case, drawing in zip((case for held in splits.values() for case in held), drawings, strict=True):
            drawing().save(directory / str(case.image_file))

    counts = write_dataset(output, splits, write_images, _PHANTOM_README)
    return PreparedDataset(**counts.model_dump(), output=output)


def phantom_case(cell: Cell, index: int, seed: int, size: int = 224) -> tuple[Case, Drawing]:
    """Case `index` of a phantom set, and the function that draws its image; both depend on `seed` alone."""
    modality, finding, label = cell
    words = vignette(modality, finding, label, np.random.default_rng([seed, 1, index]))
    name = f"{modality}_{index + 1:05d}"
    known = {"modality": modality, "error_type": words.error_type, "severity": words.severity}
    case = Case(
        id=name,
        instruction=INSTRUCTION,
        input=words.input,
        output=words.output,
        image_file=f"{name}.png",
        image_path=f"{IMAGES}/{name}.png",
        metadata=Metadata.model_validate({**known, "phantom": True, "image_has_finding": finding}),
    )
    return case, lambda: phantoms.draw(modality, finding, np.random.default_rng([seed, 2, index]), size)


def balanced_cells(count: int, rng: np.random.Generator) -> list[Cell]:
    """`count` kinds of case in seeded order, each as often as any other within one."""
    turns = -(-count // len(CELLS))
    return [CELLS[index] for _ in range(turns) for index in rng.permutation(len(CELLS))][:count]


def _place(
    sources: Sequence[SourceCase], folder: ImageFolder, sizes: dict[str, int], seed: int
) -> tuple[list[Placed], int]:
    """The split of each case, and how many cases the largest group has that was kept together.

    Where one image serves nearly all cases, only patients are kept apart.
    """
    strata = [(source.case.metadata.modality, source.case.label) for source in sources]
    shown = [tuple(folder.digest(path) for path in source.images) for source in sources]
    patients: list[Keys] = [
        frozenset({f"patient {source.case.patient_id}"} if source.case.patient_id else ())
        for source in sources
    ]
    keys = [own | {f"image {name}" for name in names} for own, names in zip(patients, shown, strict=True)]
    try:
        sides = assign(strata, keys, sizes, seed)
    except InputError:
        keys = patients
        sides = assign(strata, keys, sizes, seed)
    rows = zip(sources, shown, sides, strict=True)
    return [Placed(each.case, each.line, names, side) for each, names, side in rows], largest_group(keys)


def _kept_apart(placed: Sequence[Placed]) -> str:
    """What is known of patients and images in several splits, for the dataset's README."""
    nameless = sum(one.case.patient_id is None for one in placed)
    shared = shared_images(placed)
    told = "Cases of one patient are all in one split."
    if nameless == len(placed):
        told = "No row names a patient (`patient_id`): cases of one patient may be in several splits."
    elif nameless:
        told = f"Cases of one `patient_id` are all in one split; {nameless} of {len(placed)} cases have none."
    if shared:
        told += f"\nImages in more than one split: {shared}."
    elif any(one.shown for one in placed):
        told += "\nNo image is in two splits."
    return told


def _renamed(source: SourceCase, names: dict[Path, str]) -> Case:
    """The case with its images' places in the dataset."""
    files = [names[path] for path in source.images]
    if not files:
        return source.case
    paths = [f"{IMAGES}/{name}" for name in files]
    single = len(files) == 1
    update = {"image_file": files[0] if single else files, "image_path": paths[0] if single else paths}
    return source.case.model_copy(update=update)
