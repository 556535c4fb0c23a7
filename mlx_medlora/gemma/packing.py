"""What a conversion writes for each tensor that it reads: the plan first, then blocks of rows in its order.

Groups of neighbouring weights lie within a row, so quantising rows apart gives the bytes of the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from math import prod

import mlx.core as mx

from mlx_medlora.errors import InputError
from mlx_medlora.gemma import names
from mlx_medlora.gemma.checkpoint import Checkpoint
from mlx_medlora.gemma.config import Quantization
from mlx_medlora.gemma.finite import dtype_name, is_finite, too_large
from mlx_medlora.gemma.shards import Planned
from mlx_medlora.gemma.tensorfiles import Stored

BLOCK_VALUES = 1 << 22  # of a block of rows: small enough to stay in a processor's cache
_AHEAD = 2
_PARTS = ("weight", "scales", "biases")
DTYPES = {"bfloat16": ("BF16", mx.bfloat16), "float32": ("F32", mx.float32)}

Block = list[tuple[str, mx.array]]  # what to append to which output tensors


class Packing:
    """The output tensors of one checkpoint.

    Unquantised output is the hub's layout, which transformers, mlx-vlm and this toolkit load. Quantised
    output is mlx-vlm's: the patch embedding as (O, H, W, I) and, for image+text models, a second copy
    of the embedding as the head, without which mlx-vlm refuses a quantised checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, quantization: Quantization | None, dtype: str) -> None:
        self.checkpoint, self.quantization = checkpoint, quantization
        self.stored_dtype, self.dtype = DTYPES[dtype]
        text_only = checkpoint.config.text_only
        self._text = "model." if text_only else names.TEXT
        self._head = names.head(text_only=text_only) + "."
        copy_head = quantization is not None and not text_only and checkpoint.config.tied_head
        self._copied = names.embedding(text_only=False) if copy_head else None

    @property
    def mark(self) -> str:
        """The safetensors metadata's format: whose layout this is."""
        return "pt" if self.quantization is None else "mlx"

    def plan(self) -> list[Planned]:
        """Every output tensor, in order. Raises InputError where a group size does not divide a matrix."""
        return [
            planned for name, entry in self.checkpoint.stored.items() for planned in self._plan(name, entry)
        ]

    def blocks(self) -> Iterator[Block]:
        """Blocks of rows in the order of `plan`: what to append to which tensors, already being computed.

        A few blocks are held at a time. On the CPU they are computed by two threads.
        """
        on_cpu = mx.default_device().type == mx.cpu
        streams = [mx.new_stream(mx.cpu) for _ in range(2)] if on_cpu else [mx.default_stream(mx.gpu)]
        waiting: deque[tuple[tuple[str, int, int], mx.array, Block]] = deque()
        for stream, place in zip(cycle(streams), self._ranges(), strict=False):
            with mx.stream(stream):
                rows = self.checkpoint.rows(*place).astype(self.dtype)
                block = self._block(place[0], rows)
                mx.async_eval([rows, *(part for _, part in block)])
            waiting.append((place, rows, block))
            if len(waiting) > _AHEAD:
                yield self._sound(*waiting.popleft())
        for held in waiting:
            yield self._sound(*held)

    def _sound(self, place: tuple[str, int, int], rows: mx.array, block: Block) -> Block:
        """The block, unless a value of its source is no number, or none of the output's dtype."""
        if is_finite(rows):
            self._refuse_wide_groups(place[0], block)
            return block
        file = self.checkpoint.stored[place[0]].file
        if is_finite(self.checkpoint.rows(*place)):
            hint = "Give `convert` --dtype float32, for the base of a fuse too."
            raise too_large(place[0], self.dtype, file, hint)
        raise InputError(f"the weights hold NaN or infinity: {place[0]}", path=file)

    def _refuse_wide_groups(self, name: str, block: Block) -> None:
        """Raise InputError where a group's range, and so its scale, is beyond the dtype: it loads nowhere."""
        scales = [part for module, part in block if module.endswith((".scales", ".biases"))]
        if not all(map(is_finite, scales)):
            assert self.quantization is not None
            raise InputError(
                f"{name} cannot be packed into {self.quantization.bits} bits: neighbouring values lie so far "
                f"apart that their scale is too large for {dtype_name(self.dtype)}",
                path=self.checkpoint.stored[name].file,
                hint="Leave out --bits, or --requantise of `fuse`.",
            )

    def _ranges(self) -> Iterator[tuple[str, int, int]]:
        """Every tensor's name and the bounds of its blocks of rows."""
        for name, entry in self.checkpoint.stored.items():
            count = entry.shape[0]
            step = max(1, BLOCK_VALUES * count // prod(entry.shape))
            for start in range(0, count, step):
                yield name, start, min(start + step, count)

    def parameters(self) -> int:
        """Number of the model's parameters, before packing."""
        return sum(prod(entry.shape) for entry in self.checkpoint.stored.values())

    def packs(self, name: str) -> bool:
        """True for the matrices that are quantised: the text stack's, embedding and head included."""
        matrix = len(self.checkpoint.stored[name].shape) == 2
        return self.quantization is not None and matrix and name.startswith((self._text, self._head))

    def _plan(self, name: str, entry: Stored) -> list[Planned]:
        if not self.packs(name):
            return [Planned(name, self._shape(name, entry.shape), self.stored_dtype)]
        assert self.quantization is not None
        bits, group = self.quantization.bits, self.quantization.group_size
        rows, width = entry.shape
        if width % group:
            raise InputError(
                f"a group size of {group} does not divide {name}, whose rows are {width} long",
                path=self.checkpoint.directory,
                hint=_other_group(width),
            )
        module = name.removesuffix(".weight")
        widths = (width * bits // 32, width // group, width // group)
        dtypes = ("U32", self.stored_dtype, self.stored_dtype)
        packed = [
            Planned(f"{module}.{part}", (rows, columns), dtype)
            for part, columns, dtype in zip(_PARTS, widths, dtypes, strict=True)
        ]
        if module != self._copied:
            return packed
        head = names.head(text_only=False)
        return packed + [replace(part, name=part.name.replace(module, head)) for part in packed]

    def _block(self, name: str, rows: mx.array) -> Block:
        if not self.packs(name):
            hub_layout = name == names.PATCHES and self.quantization is None
            return [(name, rows.transpose(0, 3, 1, 2) if hub_layout else rows)]
        assert self.quantization is not None
        packed = mx.quantize(rows, self.quantization.group_size, self.quantization.bits)
        module = name.removesuffix(".weight")
        modules = [module, names.head(text_only=False)] if module == self._copied else [module]
        return [
            (f"{module}.{part}", array)
            for module in modules
            for part, array in zip(_PARTS, packed, strict=True)
        ]

    def _shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if name != names.PATCHES or self.quantization is not None:
            return shape
        width, height, side, channels = shape
        return (width, channels, height, side)


def _other_group(width: int) -> str:
    fitting = [str(size) for size in (32, 64, 128) if width % size == 0]
    if fitting:
        return f"Use --group-size {' or '.join(fitting)}."
    return "This model is too narrow to quantise: convert it without --bits."
