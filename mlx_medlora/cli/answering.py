"""What `eval` and `calibrate` share: a model answers one split, with the features that are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.evaluation.runner import Evaluation
    from mlx_medlora.features.settings import FeatureSettings
    from mlx_medlora.gemma.model import Base
    from mlx_medlora.gemma.processor import Encoder


def opened(data: Path, split: str) -> Dataset:
    """The dataset, its split read once: faults in the data are said before a model loads."""
    from mlx_medlora.cases.dataset import Dataset

    dataset = Dataset.open(data)
    dataset.refuse_shared_ids()
    dataset.cases(split)
    return dataset


def answered(
    model: str,
    adapter: Path | None,
    dataset: Dataset,
    split: str,
    kept: FeatureSettings,
    *,
    method: str = "score",
    batch_size: int | None = None,
    max_tokens: int = 64,
    after: Callable[[Base, Encoder], None] | None = None,
) -> Evaluation:
    """Load the model and have it answer the split, with progress and what became of the features.

    `after` is given the model when it has answered.
    """
    from mlx_medlora.evaluation.runner import evaluate
    from mlx_medlora.features.opening import open_features
    from mlx_medlora.gemma.processor import Encoder
    from mlx_medlora.lora.load import load

    images = any(case.image_paths for case in dataset.cases(split))
    network, processor = load(model, adapter)
    encoder = Encoder(processor, network.config)
    with (
        open_features(network, encoder, kept, dataset.root, out.warning, images=images) as seen,
        out.progress(f"answering {split}") as step,
    ):
        found = evaluate(
            network,
            encoder,
            dataset,
            split,
            method="generate" if method == "generate" else "score",
            batch_size=batch_size,
            max_tokens=max_tokens,
            features=seen,
            progress=step,
        )
    if images:
        out.note(seen.use.sentence())
    if after is not None:
        after(network, encoder)
    return found


def note_point_left(adapter: Path) -> None:
    """Say that what was made of the adapter goes without its operating point, where it has one."""
    from mlx_medlora.evaluation.runs import POINT

    if (adapter / POINT).is_file():
        out.note(f"{POINT} was left behind: a threshold belongs to the weights it was chosen for.")


def warn_of_training_cases(adapter: Path | None, split_sha256: str) -> None:
    """Say where the adapter was trained on these very cases, as far as its `run.json` tells."""
    from mlx_medlora.files import read_json

    record = None if adapter is None else adapter / "run.json"
    if record is None or not record.is_file():
        return
    raw = read_json(record)
    data = raw.get("data") if isinstance(raw, dict) else None
    train = data.get("train") if isinstance(data, dict) else None
    if isinstance(train, dict) and train.get("sha256") == split_sha256:
        out.warning("the adapter was trained on these very cases: the figures say nothing of new ones")
