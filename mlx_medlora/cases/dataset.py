"""A dataset directory: `train.jsonl`, `val.jsonl`, perhaps `test.jsonl`, and the images they name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mlx_medlora import privacy
from mlx_medlora.cases.card import Label
from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.cases.schema import Case, parse_case
from mlx_medlora.cases.source import DataSource, read_source
from mlx_medlora.errors import InputError
from mlx_medlora.files import sha256

SPLITS = ("train", "val", "test")

_HINT = "Make a dataset directory with: mlx-medlora prepare CASES --images DIR --output DIR"


class Dataset:
    """Reads a prepared dataset; every row is checked as it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._real_root = root.resolve()

    @classmethod
    def open(cls, directory: str | Path) -> Dataset:
        """Open a dataset directory. Raises InputError where it is none or has no split."""
        privacy.cases_read()
        root = Path(directory)
        if not root.exists():
            raise InputError("no such dataset directory", path=root, hint=_HINT)
        if not root.is_dir():
            raise InputError("a dataset is a directory, this is a file", path=root, hint=_HINT)
        dataset = cls(root)
        if not dataset.splits():
            names = ", ".join(f"{split}.jsonl" for split in SPLITS)
            raise InputError(f"not a dataset directory: it has none of {names}", path=root, hint=_HINT)
        return dataset

    def splits(self) -> tuple[str, ...]:
        """The splits that are there, in the order train, val, test."""
        return tuple(split for split in SPLITS if self._file(split).exists())  # of any kind: reading names it

    def cases(self, split: str) -> list[Case]:
        """All cases of one split, in the file's order.

        Raises InputError, with file and line, for an unknown or empty split, bad JSON, a wrong or unknown
        field, a repeated id, and an image that is missing or lies outside the dataset.
        """
        if split not in self.splits():
            hint = f"Splits of this dataset: {', '.join(self.splits())}."
            raise InputError(f"the dataset has no split {split!r}", path=self.root, hint=hint)
        path = self._file(split)
        cases: list[Case] = []
        lines: dict[str, int] = {}
        for line, row in read_jsonl(path):
            case = parse_case(row, path, line)
            if case.id in lines:
                message = f"the id {case.id!r:.200} was used on line {lines[case.id]} already"
                raise InputError(message, path=path, line=line, hint="Give every case its own id.")
            lines[case.id] = line
            self.image_files(case)
            cases.append(case)
        if not cases:
            raise InputError(f"the split {split!r} is empty", path=path, hint=_HINT)
        return cases

    def source(self) -> DataSource | None:
        """The mark of where the data comes from, None without one. Raises InputError where it is damaged."""
        return read_source(self.root)

    def refuse_shared_ids(self) -> None:
        """Raise InputError, with file and line, for an id that stands in two splits."""
        places: dict[str, str] = {}
        for split in self.splits():
            for line, row in read_jsonl(self._file(split)):
                name = row.get("id") if isinstance(row, dict) else None
                if not isinstance(name, str):
                    continue  # reading the split's cases says what is wrong with it
                if places.setdefault(name, split) != split:
                    message = f"the id {name!r} is in the split {places[name]!r} too"
                    hint = "Keep each case in one split, or the held-out figures mean nothing."
                    raise InputError(message, path=self._file(split), line=line, hint=hint)

    def only_label(self, split: str) -> Label | None:
        """The right answer of all cases of a split, None where both occur; reads no further than it must."""
        found: set[Label] = set()
        for line, row in read_jsonl(self._file(split)):
            found.add(parse_case(row, self._file(split), line).label)
            if len(found) > 1:
                return None
        return next(iter(found), None)

    def image_files(self, case: Case) -> tuple[Path, ...]:
        """The case's images as absolute paths, in reading order.

        Raises InputError for one that is missing or lies outside the dataset, through a link as well.
        """
        return tuple(self._image(case, relative) for relative in case.image_paths)

    def fingerprint(self, split: str) -> str:
        """SHA-256 (hex) over the split's rows and its images' bytes; the directory's place has no part."""
        digest = hashlib.sha256()
        known: dict[Path, str] = {}
        for case in self.cases(split):
            digest.update(json.dumps(case.row(), sort_keys=True, ensure_ascii=False).encode() + b"\n")
            for image in self.image_files(case):
                if image not in known:
                    known[image] = sha256(image)
                digest.update(known[image].encode())
        return digest.hexdigest()

    def wrong(self, case: Case, message: str, hint: str | None = None) -> InputError:
        """An error about one of the dataset's cases, which names its file and line."""
        if case.line is None:
            return InputError(f"{case.where}: {message}", path=self.root, hint=hint)
        return InputError(message, path=self.root / case.where.rsplit(":", 1)[0], line=case.line, hint=hint)

    def _image(self, case: Case, relative: str) -> Path:
        try:
            image = (self._real_root / relative).resolve()
            exists = image.is_file()
        except (OSError, RuntimeError):  # a name too long, a loop of links
            image, exists = self._real_root, False
        if not image.is_relative_to(self._real_root):
            raise self.wrong(case, f"the image {privacy.named(relative)} lies outside the dataset directory")
        if not exists:
            named = privacy.named(relative)
            raise self.wrong(case, f"the image {named} of case {case.id!r:.200} does not exist")
        return image

    def _file(self, split: str) -> Path:
        return self.root / f"{split}.jsonl"
