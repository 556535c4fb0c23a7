"""How far one form of a model answers from another: what packing a fused model again costs.

Letters: N cases, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.evaluation.prompts import PromptMaker
from mlx_medlora.evaluation.runner import evaluate
from mlx_medlora.gemma.elementwise import log_sum_exp
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt
from mlx_medlora.lora.load import load
from mlx_medlora.settings import StrictModel


class Drift(StrictModel):
    """The distance between two forms of one model on the same cases.

    `logits` is the largest difference of a logit of the answer's first token, over the largest logit;
    `kl` the mean Kullback-Leibler divergence there, in nats; `answers_changed` of `n` verdicts differ.
    """

    n: int
    logits: float
    kl: float
    answers_changed: int

    @property
    def share(self) -> float:
        """Answers that changed, of all."""
        return self.answers_changed / self.n


@dataclass(frozen=True)
class Snapshot:
    """What a model says of the cases: logits (N, V) of the answer's first token, and its verdicts."""

    logits: npt.NDArray[np.float32]
    verdicts: tuple[str | None, ...]


def snapshot(model: str | Path, adapter: Path | None, dataset: Dataset, split: str) -> Snapshot:
    """Load `model`, with `adapter` if there is one, and ask it every case of `split`.

    Raises InputError as `load` and `evaluate` do.
    """
    network, processor = load(model, adapter)
    encoder = Encoder(processor, network.config)
    cases = dataset.cases(split)
    maker = PromptMaker(network, encoder, dataset, cases)
    logits = [_first(network, prompt) for case in cases for prompt in maker.prompts([case])]
    found = evaluate(network, encoder, dataset, split)
    return Snapshot(np.stack(logits), tuple(prediction.predicted for prediction in found.predictions))


def _first(model: Base, prompt: Prompt) -> npt.NDArray[np.float32]:
    """(V,) logits of the token after the prompt."""
    ids = mx.array(prompt.ids)[None]
    soft = (ids == model.config.image_token_id).astype(mx.int32)
    hidden = model.hidden(model.embed(ids, prompt.features), None, None if prompt.features is None else soft)
    return np.array(model.head(hidden[:, -1]).astype(mx.float32))[0]


def compare(before: Snapshot, after: Snapshot) -> Drift:
    """The drift from `before` to `after`, which are of the same cases."""
    changed = sum(a != b for a, b in zip(before.verdicts, after.verdicts, strict=True))
    largest = float(np.abs(before.logits).max())
    return Drift(
        n=len(before.verdicts),
        logits=float(np.abs(before.logits - after.logits).max()) / largest,
        kl=float(divergence(mx.array(before.logits), mx.array(after.logits)).mean()),
        answers_changed=changed,
    )


def divergence(before: mx.array, after: mx.array) -> mx.array:
    """KL(before || after) in nats, (...), of the distributions that logits (..., V) give; fp32."""
    p, q = (one.astype(mx.float32) for one in (before, after))
    p, q = (one - log_sum_exp(one)[..., None] for one in (p, q))
    return mx.maximum((mx.exp(p) * (p - q)).sum(axis=-1), 0)
