"""Several processes train one adapter: each takes its rows of every batch, and gradients are summed.

Every exchange begins with the same small message, in which a rank may say that it has failed: so an error
on one of them ends all, and none waits for a message that will not come.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from mlx_medlora.errors import InputError, Interrupted, MedloraError

Item = TypeVar("Item")
Tree = dict[str, Any]
Share = tuple[mx.array, Tree]  # summed loss of some rows, and its gradients

# What a launcher sets for each process: mlx.launch, Open MPI, MPICH.
_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_CONTINUE = "The run continues from its last checkpoint with --resume, on any number of ranks."


class Ranks:
    """This process among those that train together; alone by default, and then nothing is sent."""

    def __init__(self, group: mx.distributed.Group | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else group.rank()
        self.size = 1 if group is None else group.size()
        self.failed = False

    @classmethod
    def join(cls) -> Ranks:
        """The ranks that `mlx.launch` or mpirun started with this process; alone where none did.

        Raises MedloraError where the others cannot be reached.
        """
        if not any(name in os.environ for name in _LAUNCHED):
            return cls()
        try:
            return cls(mx.distributed.init())
        except RuntimeError as error:
            raise MedloraError(
                f"rank {os.environ.get(_LAUNCHED[0], '?')} cannot reach the other ranks: {error}",
                hint="Check the host file's addresses, and that their ports are open (docs/distributed.md).",
            ) from error

    @property
    def first(self) -> bool:
        """True for the one rank that writes and speaks."""
        return self.rank == 0

    def rows(self, items: Sequence[Item]) -> list[Item]:
        """This rank's share of `items`: every size-th."""
        return list(items[self.rank :: self.size])

    def shards(self, count: int) -> range:
        """Which of a batch's `count` shards are this rank's."""
        return range(self.rank, count, self.size)

    def refuse_small(self, batch_size: int, shards: int | None = None) -> None:
        """Raise InputError where a rank or shard would never have a row, or ranks not as many shards."""
        if batch_size < self.size:
            raise InputError(
                f"--batch-size {batch_size} is shared by {self.size} ranks: some would have no row",
                hint=f"--batch-size counts the rows of all ranks together: give {self.size} or more.",
            )
        if shards is not None and (shards > batch_size or shards % self.size):
            raise InputError(
                f"--shards {shards} does not fit --batch-size {batch_size} on {self.size} ranks",
                hint="Give a multiple of the number of ranks, and no more than the rows of a batch.",
            )

    def sum(self, shares: Sequence[Share | None], tokens: int, like: Tree) -> tuple[Tree, float, int]:
        """Gradients, their loss and its supervised tokens, summed over all shares, alike on each rank.

        `shares` are this rank's, None where it had no row; `like` gives names and shapes. More than one are
        added in the order of all ranks' shares, so that the number of ranks changes no bit of the sum.
        """
        if self.size == 1 and len(shares) == 1 and shares[0] is not None:
            return shares[0][1], float(shares[0][0]), tokens
        nll = sum(float(share[0]) for share in shares if share is not None)
        if self.size > 1:
            _, nll, count = self._open(numbers=(nll, float(tokens)))
            tokens = round(count)
        own = [_flat(like if share is None else share[1]) * (share is not None) for share in shares]
        if self.size > 1 and len(own) == 1:
            summed = self._exchanged(mx.distributed.all_sum, own[0])
        else:
            summed = self._in_order(mx.stack(own))
        return _shaped(summed, like), nll, tokens

    def _in_order(self, own: mx.array) -> mx.array:
        """The sum of all ranks' shares, the first share first; `own` (K, P) are this rank's."""
        count = own.shape[0]
        rows = own if self.size == 1 else self._exchanged(mx.distributed.all_gather, own)
        order = [rank * count + place for place in range(count) for rank in range(self.size)]
        summed = rows[0]
        for row in order[1:]:
            summed = summed + rows[row]
        return summed

    def total(self, value: float, count: int) -> tuple[float, int]:
        """A value and a count, each summed over all ranks."""
        if self.size == 1:
            return value, count
        _, value, summed = self._open(numbers=(value, float(count)))
        return value, round(summed)

    def any(self, flag: bool) -> bool:
        """True on every rank where `flag` is true on one."""
        return flag if self.size == 1 else self._open(flag)[0]

    def fail(self) -> None:
        """Tell the others, in place of the exchange they wait in, that this rank has failed."""
        if self.size > 1 and not self.failed:
            self.failed = True
            try:
                self._all_sum(_message(True, False, (0.0, 0.0)))
            except MedloraError:
                return  # they are gone already

    def broadcast(self, blob: bytes | None) -> bytes:
        """The first rank's `blob`, on every rank."""
        if self.size == 1:
            return blob or b""
        mine = np.frombuffer(blob or b"", dtype=np.uint8) if self.first else np.zeros(0, dtype=np.uint8)
        _, length = self.total(0.0, mine.size)
        words = np.zeros(-(-length // 4) * 4, dtype=np.uint8)
        words[: mine.size] = mine
        # integers, since a sum of floats would lose the sign of -0.0
        summed = self._all_sum(mx.array(words.view(np.uint32)))
        return np.array(summed).tobytes()[:length]

    def refuse_unlike(self, facts: dict[str, Any]) -> None:
        """Raise InputError naming those `facts` that are not as on the first rank."""
        if self.size == 1:
            return
        texts = {name: json.dumps(value, sort_keys=True) for name, value in facts.items()}
        first = json.loads(self.broadcast(json.dumps(texts).encode()))
        unlike = [name for name in sorted({*texts, *first}) if texts.get(name) != first.get(name)]
        if self.any(bool(unlike)):
            self.failed = True  # on all ranks at once: none is waited for
            named = f": {', '.join(unlike)}" if unlike else ""
            raise InputError(
                f"rank {self.rank} of {self.size}: not every rank was given what the first was{named}",
                hint="Give every machine the same model, dataset and options.",
            )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within, an exception on this rank ends the others too; Interrupted is raised by all at once."""
        try:
            yield
        except Interrupted:
            raise
        except BaseException:
            self.fail()
            raise

    def _open(
        self, flag: bool = False, numbers: tuple[float, float] = (0.0, 0.0)
    ) -> tuple[bool, float, float]:
        """The message that begins each exchange, summed. Raises MedloraError where a rank has failed."""
        failed, flagged, first, second = np.array(self._all_sum(_message(False, flag, numbers))).tolist()
        if failed:
            self.failed = True
            raise MedloraError(
                f"rank {self.rank} of {self.size} stopped because another one failed", hint=_CONTINUE
            )
        return bool(flagged), first, second

    def _all_sum(self, array: mx.array) -> mx.array:
        return self._exchanged(mx.distributed.all_sum, array)

    def _exchanged(self, how: Callable[..., mx.array], array: mx.array) -> mx.array:
        try:
            found = how(array, group=self.group, stream=mx.cpu)
            mx.eval(found)
        except RuntimeError as error:
            self.failed = True
            raise MedloraError(
                f"rank {self.rank} of {self.size} lost the others: {error}", hint=_CONTINUE
            ) from error
        return found


def _message(failed: bool, flag: bool, numbers: tuple[float, float]) -> mx.array:
    with mx.stream(mx.cpu):  # no GPU has float64
        return mx.array([float(failed), float(flag), *numbers], dtype=mx.float64)


def _flat(tree: Tree) -> mx.array:
    """(P,) float32: all numbers of `tree` in a row."""
    leaves: dict[str, mx.array] = dict(tree_flatten(tree))
    return mx.concatenate([array.astype(mx.float32).reshape(-1) for array in leaves.values()])


def _shaped(flat: mx.array, like: Tree) -> Tree:
    """What `_flat` was given, in the shapes and types of `like`."""
    leaves: dict[str, mx.array] = dict(tree_flatten(like))
    ends = np.cumsum([array.size for array in leaves.values()])[:-1].tolist()
    shaped = [
        (name, part.reshape(array.shape).astype(array.dtype))
        for (name, array), part in zip(leaves.items(), mx.split(flat, ends), strict=True)
    ]
    found: Tree = tree_unflatten(shaped)
    return found


ALONE = Ranks()
