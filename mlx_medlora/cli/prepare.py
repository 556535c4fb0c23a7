"""`prepare`: a table of cases and an images folder, or drawn phantoms, become a dataset directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlx_medlora.cli.options import Json, Offline, Output, VerboseCases, examples
from mlx_medlora.cli.output import out
from mlx_medlora.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from mlx_medlora.cases.prepare import PreparedDataset
    from mlx_medlora.cases.source import DataSource
    from mlx_medlora.cases.statistics import Statistics

EXAMPLES = examples(
    "mlx-medlora prepare cases.csv --images scans/ --output my_dataset",
    "mlx-medlora prepare cases.jsonl --images scans/ --output my_dataset --val 0.2 --test 0.1 --seed 7",
    "mlx-medlora prepare cases.csv --images scans/ --output my_dataset --verbose-cases",
    "mlx-medlora prepare mimic.csv --images files/ --output mimic --credentialed 'PhysioNet MIMIC-CXR' "
    "--terms https://physionet.org/content/mimic-cxr/",
    "mlx-medlora prepare --phantoms 600 --test 200 --output phantoms",
)


def add_to(app: typer.Typer) -> None:
    """Register this file's command."""
    app.command("prepare", epilog=EXAMPLES)(prepare)


def prepare(
    output: Output,
    cases: Annotated[
        Path | None, typer.Argument(metavar="[CASES]", help="CSV, JSON or JSONL file of cases.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the table's image names are relative to.", metavar="DIR")
    ] = None,
    phantoms: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Draw this many phantom cases instead of reading CASES."),
    ] = None,
    val: Annotated[
        float, typer.Option(min=0.0, help="Cases for validation: a share below 1, or how many.")
    ] = 0.2,
    test: Annotated[
        float, typer.Option(min=0.0, help="Cases held out for a test: a share below 1, or how many.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, and of the phantoms.")] = 0,
    credentialed: Annotated[
        str | None,
        typer.Option(help="Mark CASES as data under a use agreement, and say whose.", metavar="SOURCE"),
    ] = None,
    terms: Annotated[
        str | None, typer.Option(help="With --credentialed: where that agreement stands.", metavar="URL")
    ] = None,
    verbose_cases: VerboseCases = False,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Turn a table of cases and images into a dataset.

    Checks every row and image, splits the cases and writes statistics.

    Columns of a table: id, modality, image, age, gender, finding, treatment, label (ERROR or CORRECT), and
    where known error_type, severity, patient_id. Age, age_group, gender and further columns are there for
    eval --by. Several images go into one cell, parted by ";" as in "front.png; side.png"; an empty cell makes
    a case of text alone.

    Cases of one patient_id stay in one split; without that column nothing is known of patients. Images are
    kept apart too, as far as that leaves cases for every split; a warning says where it does not.
    """
    out.use_json(json)
    _check(cases, images, phantoms)
    mark = _mark(credentialed, terms, phantoms)
    from mlx_medlora.cases.prepare import prepare_phantoms, prepare_table

    if cases is not None:
        made = prepare_table(cases, images, output, val=val, test=test, seed=seed, data_source=mark)
        made = _with_words(made)
    else:
        made = prepare_phantoms(phantoms or 0, output, val=val, test=test, seed=seed)
    for warning in made.warnings:
        out.warning(warning)
    out.result(made.model_dump(mode="json"), _table(made), f"Wrote {output}")


def _with_words(made: PreparedDataset) -> PreparedDataset:
    """Add whether the words of the cases give their answers away, before anything is trained on them."""
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.evaluation.saying import words_sentence
    from mlx_medlora.evaluation.words import probe_words, undecided_sentence

    if 0 in made.label.values():
        return made  # one answer alone is no shortcut, and was warned of
    dataset = Dataset.open(made.output)
    found = probe_words([case for split in dataset.splits() for case in dataset.cases(split)])
    if found.suspected is False:
        if made.images and found.undecided:
            out.note(undecided_sentence(found))
        return made
    told = (
        words_sentence(found.accuracy, found.gain, found.words)
        if found.suspected
        else undecided_sentence(found)
    )
    learns = " A model can learn these and never look at the image." if made.images else ""
    return made.model_copy(update={"warnings": [*made.warnings, told + learns]})


def _check(cases: Path | None, images: Path | None, phantoms: int | None) -> None:
    """Refuse flags that contradict each other, by their names."""
    if (cases is None) == (phantoms is None):
        raise InputError(
            "give either CASES or --phantoms" if cases is None else "CASES and --phantoms exclude each other",
            hint="`mlx-medlora prepare --help` shows both ways.",
        )
    if phantoms is not None and images is not None:
        raise InputError("--images goes with CASES: phantoms are drawn", hint="Leave --images out.")


def _mark(credentialed: str | None, terms: str | None, phantoms: int | None) -> DataSource | None:
    """The mark that the flags ask for. Raises InputError where they make no sense together."""
    from mlx_medlora.cases.source import DataSource
    from mlx_medlora.settings import validate

    if credentialed is None:
        if terms is not None:
            raise InputError("--terms goes with --credentialed", hint="Name the data's source with it.")
        return None
    if phantoms is not None:
        raise InputError("--credentialed goes with CASES: phantoms are drawn", hint="Leave it out.")
    return validate(DataSource, {"name": credentialed, "credentialed": True, "terms": terms})


def _table(made: Statistics) -> Table:
    """How many cases of which kind are in each split."""
    from rich.table import Table

    table = Table()
    for column in ("split", "cases", "images", "ERROR", "CORRECT", "modalities"):
        table.add_column(column)
    for name, counts in made.splits.items():
        kinds = ", ".join(f"{modality} {n}" for modality, n in counts.modality.items())
        labels = (str(counts.label[label]) for label in ("ERROR", "CORRECT"))
        table.add_row(name, str(counts.cases), str(counts.images), *labels, kinds)
    return table
