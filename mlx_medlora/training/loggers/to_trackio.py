"""trackio's database, kept in the log directory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from mlx_medlora.training.loggers.figures import Config

PROJECT = "mlx-medlora"


class Run:
    """One run of trackio, on this machine alone; what it prints goes to stderr."""

    def __init__(self, directory: Path, run_id: str, config: Config) -> None:
        os.environ["TRACKIO_DIR"] = str(directory)  # read when it is imported
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        with redirect_stdout(sys.stderr):
            import trackio

            # the run's own `finish` would leave it to be ended once more at exit
            self.finish: Callable[[], None] = trackio.finish
            self.run: Any = trackio.init(
                project=PROJECT,
                name=run_id,
                config=dict(config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def write(self, figures: dict[str, float], step: int) -> None:
        """One row of the run."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """Write what is queued."""
        with redirect_stdout(sys.stderr):
            self.finish()


def open_writer(directory: Path, run_id: str, config: Config, step: int) -> Run:
    """As `opening.Writer`; a continued run has the same name."""
    return Run(directory, run_id, config)
