"""`health.json` and `forgetting.json`: what the curves and the base say of a run."""

from __future__ import annotations

from typing import Literal

from mlx_medlora.evaluation.results.measures import Measure
from mlx_medlora.settings import StrictModel

Kind = Literal["overfitting", "underfitting", "forgetting"]


class Finding(StrictModel):
    """Whether one fault was found: None where it cannot be told. `sentence` says why, `advice` what to do.

    `advice` is empty where nothing is to be done.
    """

    kind: Kind
    found: bool | None
    sentence: str
    advice: str


class Health(StrictModel):
    """`health.json`: one finding of each kind, in this order: overfitting, underfitting, forgetting."""

    findings: list[Finding]


class QuestionDrift(StrictModel):
    """One general question, by its line: `kl` in nats a token, and the reference answer's mean losses."""

    line: int
    tokens: int
    kl: float
    loss_base: float
    loss_tuned: float


class Forgetting(StrictModel):
    """`forgetting.json`: how far the adapter moves the base on `n` general questions.

    `kl` is KL(base || tuned) a token of the reference answers, in nats; `loss_change` how much less likely
    the tuned model finds those answers, in nats a token. `threshold` is that of `kl`. `loss_base` is the
    base's mean loss on them, `loss_uniform` that of guessing: above it, the base has nothing to forget there.
    """

    n: int
    tokens: int
    kl: Measure
    loss_change: Measure
    threshold: float
    loss_base: float
    loss_uniform: float
    questions_sha256: str
    questions: list[QuestionDrift]
