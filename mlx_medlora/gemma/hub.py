"""From a name to a model directory: a local path, the embedded model, or a model on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mlx_medlora.errors import InputError, MedloraError, NoSpace
from mlx_medlora.files import disk_is_full
from mlx_medlora.gemma.fetch import fetch_large
from mlx_medlora.gemma.manifest import check_sizes
from mlx_medlora.network import OFFLINE, is_offline

EMBEDDED = "tiny-medgemma"
_ASSETS = Path(__file__).resolve().parent.parent / "assets"
_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "NOTICE*"]
_UNWANTED = ["*/*", "consolidated*", "adapter*"]


class Source(NamedTuple):
    """Where a model was found: its directory, the name it was asked for by, and the hub's commit."""

    directory: Path
    name: str
    revision: str | None = None


def resolve(path_or_hub_id: str | Path, *, offline: bool = False) -> Path:
    """The local directory of a model; see `locate`."""
    return locate(path_or_hub_id, offline=offline).directory


def locate(path_or_hub_id: str | Path, *, offline: bool = False) -> Source:
    """Find a model by local path, by the name `tiny-medgemma`, or on the hub (downloading what is missing).

    A directory that exists wins over the other two. With `offline`, --offline or HF_HUB_OFFLINE,
    only what an earlier download left in the hub's cache is used. What looks like a path is never sent
    to the hub.
    Raises InputError for models that are not there or may not be read (with what to do about it) and for
    files of another size than a manifest says, MedloraError where the hub cannot be reached or the transfer
    breaks, NoSpace where the disk is full.
    """
    name = str(path_or_hub_id)
    path = Path(name).expanduser()
    if path.is_dir() and name:
        check_sizes(path)
        return Source(path, name)
    if path.is_file():
        raise InputError("is a file; give the model's directory", path=path, hint=f"Try {path.parent}.")
    if name == EMBEDDED:
        return Source(_embedded(), name)
    if isinstance(path_or_hub_id, Path) or _looks_like_path(name):
        raise InputError(
            "no such model directory",
            path=name or "''",
            hint=_path_hint(name),
        )
    return _from_hub(name, offline or is_offline())


def _path_hint(name: str) -> str:
    owner = name.partition("/")[0]
    if name.count("/") == 1 and owner not in ("", ".", "~") and Path(owner).is_dir():
        return f"There is a directory {owner!r} here, so this is no hub id: ask for one in another directory."
    return f"Give a directory, a hub id such as google/medgemma-4b-it, or {EMBEDDED}."


def _embedded() -> Path:
    directory = _ASSETS / EMBEDDED
    if not (directory / "config.json").is_file():
        raise MedloraError(
            f"the embedded model is missing from this installation ({directory})",
            hint="Install mlx-medlora again.",
        )
    return directory


def _looks_like_path(name: str) -> bool:
    owner, _, model = name.partition("/")
    if name.startswith((".", "~")) or name.count("/") != 1 or "\\" in name or not owner or not model:
        return True
    return Path(owner).is_dir()  # `models/mine` beside a directory `models` is no question for the hub


def _from_hub(repo: str, offline: bool) -> Source:
    from huggingface_hub import is_offline_mode, snapshot_download

    try:
        if not offline and not is_offline_mode():
            fetch_large(repo, unwanted=tuple(_UNWANTED))
        found = snapshot_download(
            repo, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, local_files_only=offline
        )
    except Exception as error:  # whatever the client raises, the download failed: say why in plain words
        raise _explained(repo, error, offline) from error
    directory = Path(found)
    if not (directory / "config.json").is_file():
        raise InputError(f"{repo} on the hub has no config.json, so it is not a model that can be loaded")
    check_sizes(directory)
    return Source(directory, repo, directory.name)


def _explained(repo: str, error: Exception, offline: bool) -> MedloraError:
    """The error for people behind one of the hub client's; more special classes come first."""
    from huggingface_hub import constants, errors

    if isinstance(error, MedloraError):
        return error
    page = f"{constants.ENDPOINT}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        return InputError(
            f"{repo} is gated: its licence has to be accepted before it can be downloaded",
            hint=f"Accept it at {page} with your account, log in here with `hf auth login`, run again.",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{repo} is neither a directory here nor a model on the hub that this account can see",
            hint=f"Check the spelling at {page}; if it is private, log in with `hf auth login`.",
        )
    if isinstance(error, errors.HFValidationError):
        return InputError(
            f"{repo!r} is neither a directory here nor a valid hub id",
            hint="A hub id is owner/name, such as google/medgemma-4b-it.",
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        if isinstance(error.__cause__, errors.HfHubHTTPError):  # the client looked in its cache after this
            return _explained(repo, error.__cause__, offline)
        return _not_cached(repo, offline)
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(repo, page, error.response.status_code)
    if disk_is_full(error):
        return NoSpace(
            f"no space left on the disk while downloading {repo} to {constants.HF_HUB_CACHE}",
            hint="Free some space, or set HF_HUB_CACHE to a directory on another disk.",
        )
    return MedloraError(
        f"downloading {repo} broke off ({type(error).__name__}: {_first_line(error)})",
        hint="Run the same command again: what has arrived is kept, the rest is fetched.",
    )


def _not_cached(repo: str, offline: bool) -> MedloraError:
    from huggingface_hub import is_offline_mode

    if offline or is_offline_mode():
        return InputError(
            f"{repo} is not completely in the hub's cache, and downloads are off",
            hint=f"Run once with the network on (without --offline or {OFFLINE}), or give a directory.",
        )
    return MedloraError(
        f"the hub could not be reached for {repo}, and it is not completely in the cache",
        hint=f"There is no directory {repo} here: check its path if it is one, and else the network.",
    )


def _refused(repo: str, page: str, status: int) -> MedloraError:
    if status in (401, 403):
        return InputError(
            f"the hub refused to give {repo} to this account (status {status})",
            hint=f"Look at {page} whether access must be requested, then log in with `hf auth login`.",
        )
    return MedloraError(
        f"the hub answered with status {status} for {repo}",
        hint="Run the same command again in a while: files that have arrived are kept.",
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no message")[:200]
