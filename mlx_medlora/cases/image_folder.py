"""The folder of images that a table refers to: finding them, checking them, copying them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mlx_medlora import privacy
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.schema import refuse_escape
from mlx_medlora.errors import InputError
from mlx_medlora.files import sha256


class ImageFolder:
    """Images under one directory; each is opened once, to be sure that training can open it too."""

    def __init__(self, directory: Path | None) -> None:
        if directory is not None and not directory.is_dir():
            raise InputError("no such image directory", path=directory, hint="Check --images.")
        self._directory = directory
        self._root = None if directory is None else directory.resolve()
        self._digests: dict[Path, str] = {}

    def find(self, name: str) -> Path:
        """The file called `name`, checked. A dataset's own `images/x.png` may be given as it stands.

        Raises InputError for one that is missing, unreadable or outside the folder, through a link as well.
        """
        if self._root is None:
            named = privacy.named(name)
            raise InputError(f"the row names the image {named}, but no image directory was given (--images)")
        try:
            refuse_escape(name)
        except ValueError as error:
            raise InputError(str(error)) from error
        posix = name.replace("\\", "/")
        for candidate in dict.fromkeys((posix, posix.removeprefix("images/"))):
            try:
                path = (self._root / candidate).resolve()
                found = path.is_file()
            except (OSError, RuntimeError):  # a name too long, a loop of links
                continue
            if not path.is_relative_to(self._root):
                raise InputError(f"the image {privacy.named(name)} lies outside {self._directory}")
            if found:
                self._check(path)
                return path
        raise InputError(f"the image {privacy.named(name)} is not in {self._directory}")

    def digest(self, path: Path) -> str:
        """SHA-256 of an image that `find` returned; files with the same bytes are the same image."""
        return self._digests[path]

    def _check(self, path: Path) -> None:
        if path not in self._digests:
            open_image(path)
            self._digests[path] = sha256(path)


def unique_names(paths: Iterable[Path]) -> dict[Path, str]:
    """A file name for each path, safe in URLs and different also where capitals do not count."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in paths:
        if path in names:
            continue
        stem = re.sub(r"[^\w.-]+", "_", PurePosixPath(path.name).stem) or "image"
        suffix, number, name = path.suffix.lower(), 1, ""
        while not name or name.casefold() in taken:
            name = f"{stem}{suffix}" if number == 1 else f"{stem}_{number}{suffix}"
            number += 1
        taken.add(name.casefold())
        names[path] = name
    return names


def copy_images(names: dict[Path, str], directory: Path) -> None:
    """Copy each file's bytes into `directory` under its new name."""
    directory.mkdir()
    for path, name in names.items():
        shutil.copyfile(path, directory / name)
