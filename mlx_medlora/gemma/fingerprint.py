"""Telling one base model from another without reading all of it.

The fingerprint is SHA-256 over the geometry of config.json and, for each tensor by its canonical name,
its kind and 768 of its bytes: the first, the middle and the last 256. It takes a fraction of a second for
8 GB, and is the same for the hub's, transformers' and mlx-vlm's layout of the same numbers. A full
fine-tune, another quantisation or a fused adapter change it; an edit of a few values between the samples
does not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath

from mlx_medlora.files import read_json
from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.manifest import MANIFEST
from mlx_medlora.gemma.tensorfiles import Stored, read_header, weight_files

_SAMPLE = 256


def fingerprint(directory: Path, config: ModelConfig | None = None) -> str:
    """Hexadecimal fingerprint of the checkpoint in `directory`. Raises InputError as its readers do."""
    config = config or read_config(directory)
    digest = hashlib.sha256(_geometry(config))
    tensors: dict[str, Stored] = {}
    for file in weight_files(directory):
        for entry in read_header(file)[0].values():
            name = names.canonical(entry.name, text_only=config.text_only)
            if name is not None and not (config.tied_head and name.startswith(names.HEAD)):  # a copy
                tensors[name] = entry
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype}\n".encode())
        if name != names.PATCHES:  # its order of axes differs between the layouts
            digest.update(_sample(tensors[name]))
    return digest.hexdigest()


def source_fingerprint(directory: Path) -> str | None:
    """The fingerprint of the weights that `directory` was converted from; None where it does not say."""
    return _told(directory, "source_fingerprint")


def source_name(directory: Path) -> str | None:
    """What `directory` was converted from: a hub id, or the last part of a path; None if not converted."""
    name = _told(directory, "source")
    if name is None or _told(directory, "source_fingerprint") is None:
        return None  # a fused model is a base of its own
    is_path = name.startswith(("/", ".", "~")) or name.count("/") > 1
    return PurePosixPath(name).name if is_path else name


def _told(directory: Path, key: str) -> str | None:
    """A text in the manifest that `convert` wrote."""
    manifest = directory / MANIFEST
    raw = read_json(manifest) if manifest.is_file() else None
    found = raw.get(key) if isinstance(raw, dict) else None
    return found if isinstance(found, str) else None


def _geometry(config: ModelConfig) -> bytes:
    """The numbers that shape the computation; defaults are left out, so that a new field changes nothing."""
    fields = config.model_dump(
        mode="json", include={"text", "vision", "mm_tokens_per_image"}, exclude_defaults=True
    )
    return json.dumps(fields, sort_keys=True).encode() + b"\n"


def _sample(entry: Stored) -> bytes:
    middle = entry.start + max(0, entry.bytes - _SAMPLE) // 2
    last = max(entry.start, entry.end - _SAMPLE)
    sample = str(list(entry.shape)).encode()
    with entry.file.open("rb") as stream:
        for start in (entry.start, middle, last):
            stream.seek(start)
            sample += stream.read(min(_SAMPLE, entry.end - start))
    return sample
