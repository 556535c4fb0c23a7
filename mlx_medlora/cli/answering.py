"""What `eval` and `calibrate` share: a model answers one split, with the features that are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.evaluation.runner import Evaluation
    from mlx_medlora.features.settings import FeatureSettings
    from mlx_medlora.features.source import ImageFeatures
    from mlx_medlora.gemma.model import Base
    from mlx_medlora.gemma.processor import Encoder


def opened(data: Path, split: str) -> Dataset:
    """The dataset, its split read once: faults in the data are said before a model loads."""
    from mlx_medlora.cases.dataset import Dataset

    dataset = Dataset.open(data)
    dataset.refuse_shared_ids()
    dataset.cases(split)
    warn_of_one_answer(dataset, split)
    return dataset


def warn_of_one_answer(dataset: Dataset, *splits: str) -> None:
    """Say which of these splits, as far as they are there, hold cases of one right answer alone."""
    from mlx_medlora.cases.concerns import only_answer

    for split in dataset.splits():
        label = dataset.only_label(split) if split in splits else None
        if label is not None:
            out.warning(only_answer(split, label))


@dataclass(frozen=True)
class Session:
    """A loaded model with the image features that are there."""

    network: Base
    encoder: Encoder
    features: ImageFeatures

    def answer(self, dataset: Dataset, split: str, title: str, **how: Any) -> Evaluation:
        """Have the model answer the split, with progress under `title`; `how` as `evaluate` takes it."""
        from mlx_medlora.evaluation.runner import evaluate

        with out.progress(title) as step:
            return evaluate(
                self.network, self.encoder, dataset, split, features=self.features, progress=step, **how
            )


@contextmanager
def session(
    model: str, adapter: Path | None, dataset: Dataset, split: str, kept: FeatureSettings
) -> Iterator[Session]:
    """Load the model, and say in the end what became of the features."""
    from mlx_medlora.features.opening import open_features
    from mlx_medlora.gemma.processor import Encoder
    from mlx_medlora.lora.load import load

    images = any(case.image_paths for case in dataset.cases(split))
    network, processor = load(model, adapter)
    encoder = Encoder(processor, network.config)
    with open_features(network, encoder, kept, dataset.root, out.warning, images=images) as seen:
        yield Session(network, encoder, seen)
    if images:
        out.note(seen.use.sentence())


def answered(
    model: str, adapter: Path | None, dataset: Dataset, split: str, kept: FeatureSettings, **how: Any
) -> Evaluation:
    """Load the model and have it answer the split, as `Session.answer`."""
    with session(model, adapter, dataset, split, kept) as asked:
        return asked.answer(dataset, split, f"answering {split}", **how)


def note_point_left(adapter: Path) -> None:
    """Say that what was made of the adapter goes without its operating point, where it has one."""
    from mlx_medlora.evaluation.runs import POINT

    if (adapter / POINT).is_file():
        out.note(f"{POINT} was left behind: a threshold belongs to the weights it was chosen for.")


def warn_of_seen_cases(adapter: Path | None, model: str, dataset: Dataset, split: str) -> None:
    """Say where an adapter, also one that was fused, learned this split or had its epoch chosen by it."""
    from mlx_medlora.evaluation.adapters import UNKNOWN, caveat, record_of, record_of_model
    from mlx_medlora.gemma.hub import resolve

    own = {} if adapter is None else record_of(adapter)
    for record in (own, record_of_model(resolve(model))):
        said = caveat(record, dataset.fingerprint(split), split, dataset.splits())
        if said is not None:
            out.warning(said)
    if adapter is not None and not own:
        out.note(f"{UNKNOWN[0].upper()}{UNKNOWN[1:]}.")


def warn_of_training_cases(adapter: Path, split_sha256: str) -> None:
    """Say where the adapter was trained on these very cases; to have validated on them is no fault here."""
    from mlx_medlora.evaluation.adapters import TRAINED, caveat, record_of

    if caveat(record_of(adapter), split_sha256) == TRAINED:
        out.warning(TRAINED)
