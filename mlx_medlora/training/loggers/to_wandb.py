"""Weights & Biases, offline unless WANDB_MODE=online is set: nothing leaves the machine by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlx_medlora.training.loggers.figures import Config

PROJECT = "mlx-medlora"


def mode() -> str:
    """`online` where the environment says exactly so, `disabled` likewise, and else `offline`."""
    said = os.environ.get("WANDB_MODE", "")
    return said if said in ("online", "disabled") else "offline"


class Run:
    """One run of wandb. It is told figures and settings, and nothing of host, user, paths or code."""

    def __init__(self, directory: Path, run_id: str, config: Config) -> None:
        if mode() != "online":
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # its crash reports would go out in any mode
        import wandb

        private = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            host="local",
            program="mlx-medlora",
            program_abspath="",
            program_relpath="",
            save_code=False,
            silent=True,
            username="local",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self.run: Any = wandb.init(
            project=PROJECT,
            id=run_id,
            name=run_id,
            dir=str(directory),
            config=dict(config),
            mode=mode(),
            resume="allow",
            settings=private,
        )

    def write(self, figures: dict[str, float], step: int) -> None:
        """One row of the run's history."""
        self.run.log(figures, step=step)

    def close(self) -> None:
        """Finish the run's files."""
        self.run.finish()


def open_writer(directory: Path, run_id: str, config: Config, step: int) -> Run:
    """As `opening.Writer`; a continued run has the same id, and a directory of its own in offline mode."""
    return Run(directory, run_id, config)
