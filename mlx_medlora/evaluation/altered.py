"""A split asked again with one thing changed: the images, or a part of the text."""

from __future__ import annotations

import itertools
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from mlx_medlora.cases.card import NOT_STATED, without_finding
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.schema import Case
from mlx_medlora.files import sha256
from mlx_medlora.gemma.processor import Encoder

Images = Mapping[str, tuple[Path, ...]]  # of each case, by id
Kind = tuple[str | None, str | None]  # modality and right answer; None: any
BLANK_SIDE = 64


class Altered(Dataset):
    """The dataset's changed cases in place of any split; their images may lie anywhere."""

    def __init__(self, source: Dataset, cases: Sequence[Case], images: Images) -> None:
        super().__init__(source.root)
        self._cases, self._images = list(cases), images

    def cases(self, split: str) -> list[Case]:
        """The changed cases, whatever the split."""
        return self._cases

    def image_files(self, case: Case) -> tuple[Path, ...]:
        """The case's images, or those that stand in for them."""
        return self._images[case.id]


@contextmanager
def blank_image(encoder: Encoder) -> Iterator[Path]:
    """Yield a grey image, for as long as the block lasts: each channel what the preprocessing maps to 0."""
    mean = encoder.processor.image_processor.image_mean
    channels = [mean] * 3 if isinstance(mean, float) else mean
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "blank.png"
        grey = tuple(round(255 * channel) for channel in channels)
        Image.new("RGB", (BLANK_SIDE, BLANK_SIDE), grey).save(path)
        yield path


def blanked(source: Dataset, cases: Sequence[Case], blank: Path) -> Altered:
    """Every image replaced by `blank`."""
    return Altered(source, cases, {case.id: (blank,) * len(case.image_paths) for case in cases})


class Swapped(Altered):
    """Cases with the images of others; `alike` of those others have the same right answer."""

    alike: int = 0


def swapped(source: Dataset, cases: Sequence[Case], seed: int = 0) -> Swapped:
    """The cases with another case's images; those for which there are no others are left out.

    They come from a case of the same modality and the other right answer where there is one with other
    images, else of the same modality, else of any. A seed fixes who gets whose.
    """
    files = {case.id: source.image_files(case) for case in cases}
    digests = {file: sha256(file) for file in {file for own in files.values() for file in own}}
    seen = {name: frozenset(digests[file] for file in own) for name, own in files.items()}
    rng = np.random.default_rng(seed)
    donors = _Donors([cases[place] for place in rng.permutation(len(cases))], seen)
    chosen = [(case, donors.next(case)) for case in cases]
    images = {
        case.id: tuple(itertools.islice(itertools.cycle(files[donor.id]), len(files[case.id])))
        for case, donor in chosen
        if donor is not None
    }
    found = Swapped(source, [case for case in cases if case.id in images], images)
    found.alike = sum(donor is not None and donor.label == case.label for case, donor in chosen)
    return found


class _Donors:
    """Gives each case in turn one of its kind that shows other images: `seen` has each case's, by id."""

    def __init__(self, cases: Sequence[Case], seen: Mapping[str, frozenset[str]]) -> None:
        self.seen = seen
        self.pools: dict[Kind, deque[Case]] = defaultdict(deque)
        for case in cases:
            for kind in ((case.metadata.modality, case.label), (case.metadata.modality, None), (None, None)):
                self.pools[kind].append(case)

    def next(self, case: Case) -> Case | None:
        """The nearest kind's next case; None where every other case shows an image of this one's."""
        modality, other = case.metadata.modality, "CORRECT" if case.label == "ERROR" else "ERROR"
        for kind in ((modality, other), (modality, None), (None, None)):
            pool = self.pools[kind]
            for _ in range(len(pool)):
                pool.rotate(-1)
                if not self.seen[pool[-1].id] & self.seen[case.id]:
                    return pool[-1]
        return None


def finding_removed(source: Dataset, cases: Sequence[Case]) -> Altered:
    """The cases whose text has a finding under a heading, without it."""
    texts = {case.id: without_finding(case.input) for case in cases}
    changed = [
        case.model_copy(update={"input": text}) for case in cases if (text := texts[case.id]) is not None
    ]
    return Altered(source, changed, {case.id: source.image_files(case) for case in changed})


def text_removed(source: Dataset, cases: Sequence[Case]) -> Altered:
    """The cases with their images and the instruction, and no other text."""
    changed = [case.model_copy(update={"input": NOT_STATED}) for case in cases]
    return Altered(source, changed, {case.id: source.image_files(case) for case in changed})
