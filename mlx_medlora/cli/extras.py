"""What `eval` writes beside the answers where it is asked to: the suite, what the model looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_medlora.cases.dataset import Dataset
    from mlx_medlora.cli.looking import Seen
    from mlx_medlora.evaluation.gate import Gate
    from mlx_medlora.evaluation.results import Prediction, Scorecard, Suite

FOLDER = "heatmaps"


@dataclass
class Extras:
    """`seen` where it was asked whether the model looks; `suite` once it was run."""

    seen: Seen | None
    predictions: Sequence[Prediction]
    card: Scorecard
    gates: Sequence[Gate]
    suite: Suite | None = None

    def run_suite(self, dataset: Dataset, split: str) -> None:
        """Hold every modality against the gates, and the model against the baselines."""
        from mlx_medlora.evaluation.suite import run_suite

        self.suite = run_suite(dataset, split, self.predictions, self.card, self.gates)

    @property
    def baselines(self) -> dict[str, Scorecard]:
        """The baselines' scorecards by name; none without the suite."""
        return {} if self.suite is None else {one.name: one.scorecard for one in self.suite.baselines}

    def write(self, run: Path) -> None:
        """Write all of it into a run's directory in the making."""
        if self.suite is not None:
            from mlx_medlora.evaluation.runs import SUITE
            from mlx_medlora.files import write_json
            from mlx_medlora.report.heatmaps import write_heatmaps

            write_json(run / SUITE, self.suite.model_dump(mode="json"))
            write_heatmaps(run / FOLDER, self.suite.heatmaps)
        if self.seen is not None:
            self.seen.write(run)
