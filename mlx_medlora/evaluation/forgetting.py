"""How far an adapter moves its base where it was not asked to: on general medical questions.

Letters: L tokens of a row, Q tokens of its answer, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import mlx.core as mx
import numpy as np

from mlx_medlora.cases.questions import GENERAL, Question, fingerprint, read_questions
from mlx_medlora.evaluation import bootstrap
from mlx_medlora.evaluation.drift import divergence
from mlx_medlora.evaluation.intervals import Interval
from mlx_medlora.evaluation.results import Forgetting, Measure, QuestionDrift
from mlx_medlora.evaluation.tally import Floats
from mlx_medlora.gemma.elementwise import log_sum_exp
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.switch import adapter_off, can_switch

THRESHOLD = 0.1  # nats a token; docs/clinical-evaluation.md says why

Progress = Callable[[int, int], None]
KL = "KL(base || tuned) a token of general answers, in nats: 0 where the adapter changes nothing"
CHANGE = "nats a token by which the tuned model finds general textbook answers less likely than the base"


def measure(
    model: Base,
    encoder: Encoder,
    base: Callable[[], Base] | None = None,
    *,
    questions: Sequence[Question] | None = None,
    progress: Progress | None = None,
) -> Forgetting:
    """Read general questions and their reference answers with the adapter on and off.

    `base` loads the base anew; it is called only where the adapter replaced parts of it (`--save-modules`,
    biases), which takes the base's memory a second time. `questions` are the project's own forty by default.
    Raises ValueError where such an adapter comes without `base`.
    """
    asked = read_questions(GENERAL) if questions is None else list(questions)
    other = None if can_switch(model) or base is None else base()
    model.eval()
    rows = []
    for done, question in enumerate(asked, start=1):
        encoded = encoder.encode(question.conversation(with_answer=True), [], with_answer=True)
        ids = mx.array(encoded.ids)[None]  # (1, L)
        places = mx.array(np.flatnonzero(encoded.supervised[1:]).astype(np.int32))[None]  # (1, Q)
        with nullcontext() if other is not None else adapter_off(model):
            before = _logits(other or model, ids, places)
        after = _logits(model, ids, places)
        targets = mx.take_along_axis(ids, places + 1, axis=1)[0]  # (Q,)
        kl, losses = divergence(before, after), [_loss(one, targets) for one in (before, after)]
        rows.append(
            QuestionDrift(
                line=question.line,
                tokens=targets.size,
                kl=float(kl.mean()),
                loss_base=float(losses[0]),
                loss_tuned=float(losses[1]),
            )
        )
        if progress is not None:
            progress(done, len(asked))
    return summed(rows, fingerprint(asked), model.config.text.vocab_size)


def _logits(model: Base, ids: mx.array, places: mx.array) -> mx.array:
    """(Q, V) logits of the tokens after `places`, in fp32."""
    found = model.head(model.hidden(model.embed(ids), wanted=places))[0].astype(mx.float32)
    mx.eval(found)  # before the adapter is switched
    return found


def _loss(logits: mx.array, targets: mx.array) -> mx.array:
    """Mean -log p of `targets` (Q,)."""
    right = mx.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]
    return (log_sum_exp(logits) - right).mean()


def summed(rows: Sequence[QuestionDrift], sha256: str, vocabulary: int) -> Forgetting:
    """Means over all tokens; the intervals resample questions, whose tokens are not independent."""
    tokens = np.array([row.tokens for row in rows], np.float64)
    kl = np.array([row.kl for row in rows]) * tokens
    base = np.array([row.loss_base for row in rows])
    change = (np.array([row.loss_tuned for row in rows]) - base) * tokens
    return Forgetting(
        n=len(rows),
        tokens=int(tokens.sum()),
        kl=_measure("kl", KL, kl, tokens),
        loss_change=_measure("loss_change", CHANGE, change, tokens),
        threshold=THRESHOLD,
        loss_base=float(base @ tokens / tokens.sum()),
        loss_uniform=math.log(vocabulary),
        questions_sha256=sha256,
        questions=list(rows),
    )


def _measure(name: str, meaning: str, sums: Floats, tokens: Floats) -> Measure:
    interval, reason = _interval(sums, tokens)
    return Measure(
        name=name,
        value=float(sums.sum() / tokens.sum()),
        n=len(sums),
        meaning=meaning,
        interval=interval,
        interval_method=None if interval is None else "bootstrap-t over questions",
        reason=reason,
    )


def _interval(sums: Floats, tokens: Floats) -> tuple[Interval | None, str | None]:
    if len(sums) < bootstrap.LEAST:
        return None, f"fewer than {bootstrap.LEAST} questions to resample"
    found, reason = bootstrap.studentized(sums, tokens)
    if found is not None and (sums >= 0).all():  # KL is never negative
        found = max(0.0, found[0]), found[1]
    return found, reason
