"""What a prepared table should be looked at for, in sentences for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlx_medlora.cases.card import Label
from mlx_medlora.cases.schema import Case

Shown = tuple[str, ...]  # the digests of a case's images, in reading order

_LISTED = 3


@dataclass(frozen=True)
class Placed:
    """A case of a table with its line, its images' digests and its split."""

    case: Case
    line: int
    shown: Shown
    side: str


def concerns(placed: Sequence[Placed], wanted: Mapping[str, int], largest: int) -> list[str]:
    """One sentence or two for each thing that makes these splits less than they seem.

    `wanted` is how many cases each split was to have, `largest` the most that had to stay together.
    """
    found = [*_one_answer(placed, wanted), *_contradictions(placed), *_shared(placed)]
    return [*found, *_small_splits(placed, wanted, largest)]


def shared_images(placed: Sequence[Placed]) -> int:
    """How many images, told apart by their bytes, are in more than one split."""
    return sum(len(sides) > 1 for sides in _sides_of_images(placed).values())


def only_answer(split: str, label: Label) -> str:
    """What to say of a split whose cases all have one right answer."""
    other = _other(label)
    what = f"every case of the split {split!r} is {label}"
    if split == "train":
        return f"{what}: training on one answer alone teaches nothing of {other}"
    return f"{what}: figures on it show nothing of {other} cases, and always answering {label} is 100 % right"


def _one_answer(placed: Sequence[Placed], sides: Mapping[str, int]) -> Iterator[str]:
    labels = {side: {one.case.label for one in placed if one.side == side} for side in sides}
    whole = set.union(*labels.values())
    if len(whole) == 1:
        [label] = whole
        yield (
            f"all {len(placed)} cases are {label}: they teach nothing of {_other(label)}, and always "
            f"answering {label} is 100 % right. Add cases whose right answer is {_other(label)}."
        )
        return
    for side, found in labels.items():
        if len(found) == 1:
            yield f"{only_answer(side, next(iter(found)))}."


def _contradictions(placed: Sequence[Placed]) -> Iterator[str]:
    """Cases that a model cannot tell apart, with different answers."""
    alike: dict[tuple[str, Shown], list[Placed]] = defaultdict(list)
    for one in placed:
        alike[one.case.input, one.shown].append(one)
    torn = [group for group in alike.values() if len({one.case.label for one in group}) > 1]
    if torn:
        pairs = [" and ".join(_first_of_each(group)) for group in torn[:_LISTED]]
        more = f"; and {len(torn) - _LISTED} more" if len(torn) > _LISTED else ""
        yield (
            f"{sum(map(len, torn))} cases have a twin with the same text, the same images and the other "
            f"answer: lines {'; '.join(pairs)}{more}. No model can answer both rightly: correct the label of "
            "one, or leave both out."
        )


def _first_of_each(group: Sequence[Placed]) -> list[str]:
    first = {one.case.label: one for one in reversed(group)}
    return [f"{one.line} ({one.case.label})" for one in sorted(first.values(), key=lambda one: one.line)]


def _shared(placed: Sequence[Placed]) -> Iterator[str]:
    sides = _sides_of_images(placed)
    shared = shared_images(placed)
    if shared:
        cases = sum(any(len(sides[digest]) > 1 for digest in one.shown) for one in placed)
        yield (
            f"{shared} of {len(sides)} images {'is' if shared == 1 else 'are'} in more than one split, "
            f"with {cases} cases: kept apart by image as well, they would make fewer groups than splits. "
            "Figures on held-out cases say little of new images."
        )


def _sides_of_images(placed: Sequence[Placed]) -> dict[str, set[str]]:
    sides: dict[str, set[str]] = defaultdict(set)
    for one in placed:
        for digest in one.shown:
            sides[digest].add(one.side)
    return sides


def _small_splits(placed: Sequence[Placed], wanted: Mapping[str, int], largest: int) -> Iterator[str]:
    got = Counter(one.side for one in placed)
    small = [name for name, count in wanted.items() if 2 * got[name] < count]
    if small:
        told = ", ".join(f"{name} has {got[name]} of the {wanted[name]} cases asked for" for name in small)
        yield (
            f"{told}: cases of one patient or one image stay together, and {largest} of {len(placed)} cases "
            "hang together so."
        )


def _other(label: Label) -> Label:
    return "CORRECT" if label == "ERROR" else "ERROR"
