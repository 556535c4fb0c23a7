"""What a directory that `convert` or `fuse` wrote says of itself, and whether it is still that.

Sizes are compared whenever a model is found: it costs one `stat` a file. Hashes take as long as reading all
of it, and are compared where that is asked for. A model from the hub's cache has no manifest; there the
cache's own names are the hashes.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlx_medlora import __version__
from mlx_medlora.errors import InputError
from mlx_medlora.files import read_json, sha256, write_json
from mlx_medlora.gemma.shards import Written
from mlx_medlora.marks import DataSource, source_in, sources_in, unique

MANIFEST = "mlx_medlora.json"
FORMAT_VERSION = 1
ADAPTER = "adapter"  # what was fused into the weights
TRAINED_ON = "trained_on"  # the marks of all data that the weights were trained on
_SPARE = ("LICENSE", "NOTICE", "README")  # a model answers without them
_AGAIN = "Copy or convert it again. Changed on purpose? Then correct its entry in {manifest}."
_BLOCK = 1 << 20

Progress = Callable[[int, int], None]


def write_manifest(
    work: Path, weights: list[Written], about: dict[str, Any], settings: dict[str, Any], parameters: int
) -> None:
    """Describe every file in `work`; written last: a directory that has a manifest is whole.

    `weights` were hashed as they were written; `about` says where they come from.
    """
    hashes = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in weights}
    for path in sorted(work.iterdir()):
        if path.name not in hashes:
            hashes[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **about,
        "settings": settings,
        "parameters": parameters,
        "versions": {
            "mlx-medlora": __version__,
            "mlx": version("mlx"),
            "python": platform.python_version(),
        },
        "files": dict(sorted(hashes.items())),
    }
    write_json(work / MANIFEST, manifest)


def carried(directory: Path) -> dict[str, Any]:
    """What a model made from the one in `directory` says too: the adapter in it, and all data's marks.

    Empty for weights that were trained by none of ours. Raises InputError for a bad manifest.
    """
    marks, about = trained_on(directory), _read(directory)
    kept = {ADAPTER: about[ADAPTER]} if ADAPTER in about else {}
    return kept | ({TRAINED_ON: [mark.model_dump(mode="json") for mark in marks]} if marks else {})


def trained_on(directory: Path) -> tuple[DataSource, ...]:
    """The marks of the data that the weights in `directory` were trained on, by an adapter that was fused in.

    Raises InputError where they make no sense: a mark is never overlooked in silence.
    """
    path, about = directory / MANIFEST, _read(directory)
    data: Any = about.get(ADAPTER, {})
    if isinstance(data, dict):
        data = data.get("data", {})
    if not isinstance(data, dict):
        raise InputError(f"`{ADAPTER}` does not say what it was trained on", path=path, hint=_hint(path))
    own = source_in(data, "source", path)
    listed = sources_in(about, TRAINED_ON, path)
    return unique([*listed, *([] if own is None else [own]), *sources_in(data, "others", path)])


def _read(directory: Path) -> dict[str, Any]:
    """The manifest; empty where there is none. Raises InputError for one that is no object."""
    path = directory / MANIFEST
    manifest = read_json(path) if path.exists() or path.is_symlink() else {}
    if not isinstance(manifest, dict):
        raise InputError("expected a JSON object", path=path, line=1)
    return manifest


def check_sizes(directory: Path) -> None:
    """Compare the files' sizes with the manifest, where there is one.

    Raises InputError naming a file that is cut short, changed in size or not there.
    """
    for name, entry in _files(directory).items():
        path = directory / name
        size = path.stat().st_size if path.is_file() else None
        if size is None and name.startswith(_SPARE):
            continue
        if size != entry["bytes"]:
            raise _other_size(path, size, entry["bytes"])


def verify(directory: Path, progress: Progress | None = None) -> int:
    """Compare every file with its hash: the manifest's, or the one by which the hub's cache names it.

    Returns how many were compared; `progress` gets bytes read and in all. Raises InputError naming the file
    that is another than it was, and where there is nothing to compare with.
    """
    check_sizes(directory)
    known = {name: entry["sha256"] for name, entry in _files(directory).items()} or _cached(directory)
    if not known:
        raise InputError(
            f"nothing to verify against: it has no {MANIFEST} and is not in the hub's cache",
            path=directory,
            hint="`mlx-medlora convert` writes one. Leave --verify out to use the model as it is.",
        )
    paths = [directory / name for name in known if (directory / name).is_file()]
    total, done = sum(path.stat().st_size for path in paths), 0
    for path in paths:
        found = _digest(path, known[path.name])
        if found != known[path.name]:
            raise InputError(
                f"is not what was written: its hash is {found[:12]}..., and was {known[path.name][:12]}...",
                path=path,
                hint=_hint(path),
            )
        done += path.stat().st_size
        if progress is not None:
            progress(done, total)
    return len(paths)


def _files(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file by its name; empty without a manifest. Raises InputError for a bad one."""
    path = directory / MANIFEST
    if not path.is_file():
        return {}
    manifest = read_json(path)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if files is None and isinstance(manifest, dict):
        return {}
    if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
        raise InputError("`files` must give bytes and sha256 of files beside it", path=path, hint=_hint(path))
    return files


def _is_entry(name: str, entry: Any) -> bool:
    if Path(name).name != name or not isinstance(entry, dict):
        return False
    size, digest = entry.get("bytes"), entry.get("sha256")
    return isinstance(size, int) and not isinstance(size, bool) and isinstance(digest, str)


def _other_size(path: Path, found: int | None, expected: int) -> InputError:
    if found is None:
        return InputError(f"is not there; it should have {expected:,} bytes", path=path, hint=_hint(path))
    fault = "is cut short" if found < expected else "has grown"
    return InputError(
        f"{fault}: it has {found:,} bytes and should have {expected:,}", path=path, hint=_hint(path)
    )


def _hint(path: Path) -> str:
    if (path.parent / MANIFEST).is_file():
        return _AGAIN.format(manifest=path.parent / MANIFEST)
    return f"Remove {path.resolve()} and run again: it is then fetched again."


def _cached(directory: Path) -> dict[str, str]:
    """The hashes by which the hub's cache names what the links in a snapshot point to."""
    found = {}
    for path in sorted(directory.iterdir()):
        blob = path.resolve()
        is_hash = len(blob.name) in (40, 64) and not set(blob.name) - set("0123456789abcdef")
        if path.is_symlink() and blob.parent.name == "blobs" and is_hash:
            found[path.name] = blob.name
    return found


def _digest(path: Path, like: str) -> str:
    """SHA-256, or git's SHA-1 of a blob where `like` is one."""
    if len(like) == 64:
        return sha256(path)
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
