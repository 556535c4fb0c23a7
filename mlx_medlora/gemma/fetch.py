"""Weight files from the hub, continued where an earlier process was cut off.

The hub's client begins a file anew in each process, and a shard of MedGemma has gigabytes. Here a part that
has arrived stays in the client's cache, `blobs/HASH.medlora.incomplete`, until it is whole; then it gets the
name by which the client finds it, and the client does the rest.
"""

from __future__ import annotations

import fcntl
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any

from mlx_medlora.errors import MedloraError
from mlx_medlora.files import sha256, sync_path

LARGE = 32 << 20  # bytes from which a file is worth continuing
_CHUNK = 1 << 20
_ATTEMPTS = 5
_SECONDS = 60.0  # without a byte, until a transfer counts as broken


def fetch_large(repo: str, wanted: str = "*.safetensors", unwanted: tuple[str, ...] = ()) -> None:
    """Bring the large files of `repo` at its newest commit into the hub's cache, as far as they are missing.

    Where the hub cannot be reached nothing is done: the cache may hold all of it. Raises what its client
    and a connection that breaks raise, and MedloraError where a file arrives damaged.
    """
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        commit, files = _listed(api, repo)
    except Exception as error:
        if _is_broken_transfer(error):
            return
        raise
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    for name in files:
        if fnmatch(name, wanted) and not any(fnmatch(name, pattern) for pattern in unwanted):
            url = hf_hub_url(repo, name, revision=commit, endpoint=constants.ENDPOINT)
            _bring(url, folder / "blobs")


def _listed(api: Any, repo: str) -> tuple[str, list[str]]:
    """The newest commit and its large files."""
    from huggingface_hub.hf_api import RepoFile

    commit = api.model_info(repo).sha
    entries = api.list_repo_tree(repo, revision=commit)
    return commit, [one.path for one in entries if isinstance(one, RepoFile) and one.size >= LARGE]


def _bring(url: str, blobs: Path) -> None:
    from huggingface_hub import get_hf_file_metadata

    about = get_hf_file_metadata(url)
    if about.etag and about.size and not (blobs / about.etag).exists():
        blobs.mkdir(parents=True, exist_ok=True)
        _fetch(url, blobs / about.etag, about.size)


def _is_broken_transfer(error: Exception) -> bool:
    """Whether the connection failed, and not the hub or the disk; its client has changed HTTP libraries."""
    from huggingface_hub.errors import HfHubHTTPError

    return isinstance(error, HfHubHTTPError.__bases__[0]) and not isinstance(error, HfHubHTTPError)


def _fetch(url: str, blob: Path, size: int) -> None:
    partial = blob.with_name(f"{blob.name}.medlora.incomplete")
    with partial.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)  # another process of ours may be at it
        if blob.exists():
            return
        _continue(url, stream, size)
        stream.flush()
        sync_path(partial)
        if stream.tell() != size or (len(blob.name) == 64 and sha256(partial) != blob.name):
            partial.unlink()
            raise MedloraError(
                f"{url} arrived damaged; it was thrown away", hint="Run the same command again."
            )
        os.replace(partial, blob)


def _continue(url: str, stream: IO[bytes], size: int) -> None:
    """Append what is missing. A transfer that breaks is tried again, as long as something arrives."""
    attempts = _ATTEMPTS
    while (start := stream.tell()) < size:
        try:
            _receive(url, stream, start)
        except Exception as error:
            if not _is_broken_transfer(error):
                raise
            attempts = _ATTEMPTS if stream.tell() - start > _CHUNK else attempts
            attempts -= 1
            if attempts <= 0:
                raise
        finally:
            stream.flush()


def _receive(url: str, stream: IO[bytes], start: int) -> None:
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    headers = build_hf_headers() | {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=_SECONDS
    ) as response:
        hf_raise_for_status(response)
        if response.status_code != 206:  # the whole file, from its beginning
            stream.truncate(0)
            stream.seek(0)  # its place is where the next attempt begins
        for chunk in response.iter_bytes(_CHUNK):
            stream.write(chunk)
