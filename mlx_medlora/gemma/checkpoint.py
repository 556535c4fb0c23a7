"""A checkpoint's tensors under their canonical names, whichever library wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlx.core as mx

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.config import ModelConfig, read_config
from mlx_medlora.gemma.tensorfiles import INDEX, Stored, read_header, read_index, read_rows, weight_files

_BLOCK = 1 << 22


class Checkpoint:
    """A checkpoint's tensors, found but not read: `open_checkpoint` makes one.

    `stored` maps canonical names to what the files hold; shapes there are those in memory, so the
    patch embedding's is (O, H, W, I) whatever the layout. `head` holds the copy of the embedding that a
    tied checkpoint may carry as its output head; an untied head is in `stored`.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self.directory, self.config = directory, config
        self.stored: dict[str, Stored] = {}
        self.head: dict[str, Stored] = {}
        self._transposed = False
        self._lazy: dict[Path, dict[str, mx.array]] = {}

    def names(self) -> dict[str, Stored]:
        """Canonical name -> file, stored name, shape in memory, dtype."""
        return dict(self.stored)

    @property
    def quantized(self) -> bool:
        """True where any matrix is stored quantised."""
        return any(name.endswith(".scales") for name in self.stored)

    def tensor(self, name: str) -> mx.array:
        """One tensor, still lazy: its bytes are read when MLX evaluates it, and freed with the array."""
        entry = self.stored[name]
        lazy = self._lazy.get(entry.file, {})
        if entry.name not in lazy:
            lazy = self._lazy[entry.file] = _lazy_arrays(entry.file)
        array = lazy.pop(entry.name)  # keeping it would keep its memory after evaluation
        if name == names.PATCHES and self._transposed:
            return array.transpose(0, 2, 3, 1)  # (O, I, H, W) -> (O, H, W, I)
        return array

    def let_go(self, file: Path) -> None:
        """Close a file of which tensors were read."""
        self._lazy.pop(file, None)

    def rows(self, name: str, start: int, stop: int) -> mx.array:
        """Rows `start` to `stop` of one tensor, read now: memory is theirs alone, however large the rest."""
        entry = self.stored[name]
        raw = mx.array(read_rows(entry, start, stop))
        array = raw.view(mx.bfloat16) if entry.dtype == "BF16" else raw
        if name == names.PATCHES and self._transposed:
            _, height, width, channels = entry.shape
            return array.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
        return array.reshape(stop - start, *entry.shape[1:])

    def half_precision(self) -> list[str]:
        """Canonical names of the tensors stored in fp16."""
        return [name for name, entry in self.stored.items() if entry.dtype == "F16"]

    def _add(self, entry: Stored, metadata: dict[str, str]) -> None:
        name = names.canonical(entry.name, text_only=self.config.text_only)
        if name is None:
            return
        if name == names.PATCHES:
            entry = self._patches(entry, metadata)
        place = self.stored
        if name.startswith(names.HEAD):
            if self.config.tied_head:
                place = self.head
            else:
                name = f"{names.head(text_only=self.config.text_only)}.{name.removeprefix(names.HEAD)}"
        if name in place:
            other = place[name]
            raise InputError(
                f"{entry.name} is there twice (also {other.name} in {other.file.name})", path=entry.file
            )
        place[name] = entry

    def _patches(self, entry: Stored, metadata: dict[str, str]) -> Stored:
        """Tell the two layouts apart by shape and, where patch side equals channels, by the writer's mark."""
        vision = self.config.vision
        if vision is None or len(entry.shape) != 4:
            return entry
        width, side, channels = entry.shape[0], vision.patch_size, vision.num_channels
        mlx_layout = entry.shape[1:] == (side, side, channels)
        torch_layout = entry.shape[1:] == (channels, side, side)
        if not torch_layout or (mlx_layout and metadata.get("format") == "mlx"):
            return entry
        self._transposed = True
        return replace(entry, shape=(width, side, side, channels))


def open_checkpoint(directory: Path, config: ModelConfig | None = None) -> Checkpoint:
    """Find a checkpoint's tensors in any layout of Gemma 3; only headers are read.

    Raises InputError, naming the file, for pickles, missing shards, damaged files, tensors that are
    there twice, and an output head that is not the embedding's copy.
    """
    checkpoint = Checkpoint(directory, config or read_config(directory))
    present: set[str] = set()
    for path in weight_files(directory):
        header, metadata = read_header(path)
        present.update(header)
        for entry in header.values():
            checkpoint._add(entry, metadata)
    if (directory / INDEX).is_file():
        absent = [name for name in read_index(directory / INDEX) if name not in present]
        if absent:
            raise InputError(f"{names.listed(absent)} named here are in no file", path=directory / INDEX)
    _refuse_untied_head(checkpoint)
    return checkpoint


def _lazy_arrays(path: Path) -> dict[str, mx.array]:
    try:
        loaded = mx.load(str(path))
    except RuntimeError:
        path.open("rb").close()  # raises what the system says: gone, refused, too many open files
        raise
    assert isinstance(loaded, dict)
    return loaded


def _refuse_untied_head(checkpoint: Checkpoint) -> None:
    """The head must be a copy of the embedding; one quantised in another way than it cannot be compared."""
    module = names.embedding(text_only=checkpoint.config.text_only)
    quantized = "lm_head.scales" in checkpoint.head or f"{module}.scales" in checkpoint.stored
    for name, head in checkpoint.head.items():
        part = name.removeprefix(names.HEAD)
        own = checkpoint.stored.get(f"{module}.{part}")
        if own is not None and (head.shape, head.dtype) == (own.shape, own.dtype):
            same = _same_bytes(head, own)
        else:
            same = quantized or own is None
        if not same:
            raise InputError(
                f"the output head ({head.name}) is not a copy of the embedding; Gemma 3's are one matrix",
                path=head.file,
                hint="Trained with a head of its own? Then its config.json says tie_word_embeddings false.",
            )


def _same_bytes(first: Stored, second: Stored) -> bool:
    with first.file.open("rb") as left, second.file.open("rb") as right:
        left.seek(first.start)
        right.seek(second.start)
        remaining = first.bytes
        while remaining > 0:
            count = min(_BLOCK, remaining)
            if left.read(count) != right.read(count):
                return False
            remaining -= count
    return True
