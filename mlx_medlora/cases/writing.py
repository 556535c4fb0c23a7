"""Writing a dataset directory, complete or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlx_medlora.atomic import atomic_directory
from mlx_medlora.cases.dataset import SPLITS
from mlx_medlora.cases.schema import Case
from mlx_medlora.cases.source import MARK, STATISTICS, DataSource
from mlx_medlora.cases.statistics import Counts, Statistics, statistics
from mlx_medlora.files import write_json, write_jsonl

IMAGES = "images"

WriteImages = Callable[[Path], None]  # fills the dataset's `images/` directory


def write_dataset(
    output: Path,
    splits: Mapping[str, Sequence[Case]],
    write_images: WriteImages,
    readme: str,
    source: DataSource | None = None,
) -> Statistics:
    """Write rows (.jsonl and .json), images, dataset_stats.json and README.md to a new directory.

    `readme` is Markdown above the table of counts. Only the user may read what is written. Raises InputError
    where `output` exists and is not empty, NoSpace where the disk is full; then nothing is left behind.
    """
    with atomic_directory(output, private=True) as work:
        write_images(work / IMAGES)
        return write_rows(work, splits, readme, source)


def write_rows(
    directory: Path, splits: Mapping[str, Sequence[Case]], readme: str, source: DataSource | None = None
) -> Statistics:
    """Write everything but the images into an existing directory; `source` is the mark of the data."""
    (directory / IMAGES).mkdir(exist_ok=True)
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    for name, cases in ordered.items():
        rows = [case.row() for case in cases]
        write_jsonl(directory / f"{name}.jsonl", rows)
        write_json(directory / f"{name}.json", rows)
    counts = statistics(ordered)
    mark = {} if source is None else {MARK: source.model_dump()}
    write_json(directory / STATISTICS, mark | counts.model_dump())
    about = "" if source is None else _said(source)
    text = f"{_front_matter(ordered)}\n{readme.strip()}\n{about}\n## Counts\n\n{counts_table(counts)}\n"
    (directory / "README.md").write_text(text, encoding="utf-8")
    return counts


def _said(source: DataSource) -> str:
    bound = "; use and derivatives are bound by its agreement" if source.credentialed else ""
    return f"\n## Source\n\n{source}{bound}.\n"


def counts_table(counts: Statistics) -> str:
    """A Markdown table of the counts: a column for all cases and one for each split."""
    columns: dict[str, Counts] = {"all": counts, **counts.splits}
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in ("cases", "images", "text_only", "patients"):
        cells = " | ".join(str(getattr(column, name)) for column in columns.values())
        lines.append(f"| {name.replace('_', '-')} | {cells} |")
    for field in ("modality", "label", "error_type", "severity"):
        for kind in getattr(counts, field):
            cells = " | ".join(str(getattr(column, field).get(kind, 0)) for column in columns.values())
            lines.append(f"| {field.replace('_', ' ')}: {_plain(kind)} | {cells} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A table's word as a cell of Markdown: it opens no column, no line and no HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _front_matter(splits: Mapping[str, Sequence[Case]]) -> str:
    """The header by which dataset viewers find the splits."""
    files = [f"      - split: {name}\n        path: {name}.jsonl" for name in splits]
    return "\n".join(["---", "configs:", "  - config_name: default", "    data_files:", *files, "---", ""])
