"""Splits: no patient and no image on two sides, and each side with its share of every modality and label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from mlx_medlora.errors import InputError

Stratum = tuple[str, str]  # modality, label
Keys = frozenset[str]  # what ties a case to others: its patient, its images


def split_sizes(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many of `total` cases each split gets; `train` gets what the others leave.

    A share below 1 is a part of the whole, rounded but never to nothing; one of 1 or more is a number of
    cases; 0 means no such split. Raises InputError where a split would be empty.
    """
    sizes: dict[str, int] = {}
    for name, share in shares.items():
        if not 0 <= share < float("inf") or (share >= 1 and share != int(share)):
            raise InputError(f"the size of the {name} split must be a share below 1 or a count, not {share}")
        if share:
            sizes[name] = int(share) if share >= 1 else max(1, round(total * Fraction(str(share))))
    train = total - sum(sizes.values())
    if train < 1:
        wanted = ", ".join(f"{name} {size}" for name, size in sizes.items())
        message = f"the train split would be empty: {wanted}, of {total} in all"
        raise InputError(message, hint="Add cases, or ask for smaller splits.")
    return {"train": train, **sizes}


def assign(strata: Sequence[Stratum], keys: Sequence[Keys], sizes: Mapping[str, int], seed: int) -> list[str]:
    """The split of each case; cases that share a key, directly or through others, stay together.

    Groups go, largest first and otherwise in seeded order, to the split that lacks most of what they hold
    (after Sechidis et al. 2011, iterative stratification), as long as it has room. Raises InputError where
    there are fewer groups than splits.
    """
    groups = _groups(keys)
    if len(groups) < len(sizes):
        message = f"cannot fill {len(sizes)} splits: separate patients (or cases without one): {len(groups)}"
        raise InputError(message, hint="Add patients, or ask for fewer splits.")
    order = np.random.default_rng(seed).permutation(len(groups))
    queue = sorted((groups[index] for index in order), key=len, reverse=True)
    room = dict(sizes)
    need = _needs(strata, sizes)
    members: dict[str, list[list[int]]] = {name: [] for name in sizes}
    for group in queue:
        content = Counter(strata[index] for index in group)
        name = _neediest(content, len(group), room, need)
        members[name].append(group)
        room[name] -= len(group)
        for stratum, count in content.items():
            need[name][stratum] -= count
    _fill_empty(members)
    placed = {index: name for name, held in members.items() for group in held for index in group}
    return [placed[index] for index in range(len(strata))]


def largest_group(keys: Sequence[Keys]) -> int:
    """How many cases the largest group has that `assign` keeps together."""
    return max(map(len, _groups(keys)))


def _needs(strata: Sequence[Stratum], sizes: Mapping[str, int]) -> dict[str, dict[Stratum, float]]:
    """How many cases of each stratum every split should hold."""
    totals = Counter(strata)
    return {
        name: {stratum: count * size / len(strata) for stratum, count in totals.items()}
        for name, size in sizes.items()
    }


def _neediest(
    content: Mapping[Stratum, int],
    size: int,
    room: Mapping[str, int],
    need: Mapping[str, Mapping[Stratum, float]],
) -> str:
    """The split with room for the group that lacks most of its strata; ties go to the emptier split."""
    open_splits = [name for name in room if room[name] >= size] or [max(room, key=lambda name: room[name])]

    def lack(name: str) -> tuple[float, int]:
        return sum(need[name][stratum] * count for stratum, count in content.items()), room[name]

    return max(open_splits, key=lack)


def _fill_empty(members: dict[str, list[list[int]]]) -> None:
    """Give a split that large groups left empty the smallest group of the split that has most groups."""
    for name, held in members.items():
        if not held:
            donor = max(members.values(), key=len)
            smallest = min(donor, key=len)
            donor.remove(smallest)
            members[name].append(smallest)


def _groups(keys: Sequence[Keys]) -> list[list[int]]:
    """Indices of cases tied by shared keys (connected components), in the order of their first case."""
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[int]] = {}
    for index in range(len(keys)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())
