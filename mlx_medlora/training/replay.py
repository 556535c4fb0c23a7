"""General question-answer rows trained on beside the cases, so that what the base knows is not forgotten.

One sample serves the whole run: every epoch has the same rows, and so the same shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlx_medlora.cases.questions import GENERAL, Question, fingerprint, read_questions
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.config import ModelConfig
from mlx_medlora.training.examples import Example, as_trained
from mlx_medlora.training.settings import TrainSettings

if TYPE_CHECKING:
    from mlx_medlora.gemma.processor import Encoder

_DRAW = 0x7265706C  # sets this draw apart from others of the same seed


@dataclass(frozen=True)
class Replay:
    """The `rows` that each epoch has, drawn from the `total` in `path`, whose hash is `sha256`."""

    path: Path
    rows: list[Question]
    total: int
    sha256: str

    def about(self) -> dict[str, Any]:
        """What `run.json` says of it; the file by its name alone."""
        return {"file": self.path.name, "rows": len(self.rows), "of": self.total, "sha256": self.sha256}

    def examples(self, encoder: Encoder, config: ModelConfig, settings: TrainSettings) -> list[Example]:
        """The rows, tokenised. Raises InputError, with file and line, for one the model cannot take whole."""
        context = config.text.max_position_embeddings
        limit = min(settings.max_length or context, context)
        found = []
        for row in self.rows:
            try:
                encoded = encoder.encode(row.conversation(with_answer=True), [], with_answer=True)
            except InputError as error:
                raise InputError(str(error), path=self.path, line=row.line, hint=error.hint) from error
            ids, supervised = as_trained(encoded, config, settings.supervise, settings.double_bos)
            if len(ids) > limit:
                message = f"the row takes {len(ids)} tokens; the limit is {limit}"
                hint = "Shorten it or leave it out: cutting it off would cut its answer."
                raise InputError(message, path=self.path, line=row.line, hint=hint)
            name = f"{self.path.name}:{row.line}"
            found.append(Example(ids, supervised, (), name, f"replay {name}", replay=True))
        return found


def read_replay(settings: TrainSettings, cases: int) -> Replay | None:
    """The general rows for an epoch of so many `cases`, drawn by the seed; None without `--replay`.

    Raises InputError for a file that cannot be read, has too few rows for the share, or has one of the
    questions by which `eval` measures forgetting: that figure would then mean nothing.
    """
    if settings.replay is None:
        return None
    path = Path(settings.replay)
    questions = read_questions(path)
    _refuse_measured(questions, path)
    wanted = replayed(cases, settings.replay_share)
    if wanted > len(questions):
        fits = len(questions) / (len(questions) + cases)
        raise InputError(
            f"a share of {settings.replay_share:g} beside {cases} cases takes {wanted} rows, and there are "
            f"{len(questions)}",
            path=path,
            hint=f"Give more rows, or --replay-share {np.floor(fits * 1000) / 1000:g}."
            if fits >= 0.001
            else "Give more rows.",
        )
    drawn = np.random.default_rng([settings.seed, _DRAW]).choice(len(questions), wanted, replace=False)
    rows = [questions[index] for index in sorted(drawn.tolist())]
    return Replay(path, rows, len(questions), fingerprint(questions))


def replayed(cases: int, share: float) -> int:
    """How many general rows make up `share` of an epoch beside so many `cases`; at least one."""
    return max(1, round(cases * share / (1 - share)))


def _refuse_measured(questions: list[Question], path: Path) -> None:
    measured = {question.asked for question in read_questions(GENERAL)}
    for question in questions:
        if question.asked in measured:
            raise InputError(
                "this row is one of the questions by which forgetting is measured",
                path=path,
                line=question.line,
                hint="Leave it out: a model trained on it would seem to forget less than it does.",
            )
