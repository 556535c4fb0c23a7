"""Run health on the command line: what `eval` measures and writes of it, and a line for each finding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlx_medlora.cli.output import out

if TYPE_CHECKING:
    from mlx_medlora.evaluation.results import Forgetting, Health
    from mlx_medlora.gemma.model import Base
    from mlx_medlora.gemma.processor import Encoder

AskGeneral = Annotated[
    bool,
    typer.Option(
        "--forgetting/--no-forgetting",
        help="With --adapter: ask forty general questions with the adapter on and off, for health.json.",
    ),
]


class Checkup:
    """Collects what an evaluation of an adapter says of its training; of a base alone it says nothing."""

    def __init__(self, model: str, adapter: Path | None, general: bool) -> None:
        """Raises InputError for damaged curves: before a model loads."""
        from mlx_medlora.evaluation.curves import read_curves

        self.model, self.adapter, self.general = model, adapter, general and adapter is not None
        self.curves = None if adapter is None else read_curves(adapter)
        self.forgetting: Forgetting | None = None

    def ask(self, network: Base, encoder: Encoder) -> None:
        """Ask the general questions, where that is wanted."""
        if not self.general:
            return
        from mlx_medlora.evaluation.forgetting import measure
        from mlx_medlora.lora.load import load_model

        with out.progress("asking general questions") as step:
            self.forgetting = measure(network, encoder, lambda: load_model(self.model), progress=step)

    @property
    def health(self) -> Health | None:
        """The findings; None where there is nothing to find anything in."""
        from mlx_medlora.evaluation.health import health

        if self.curves is None and self.forgetting is None:
            return None
        return health(self.curves, self.forgetting)

    def results(self) -> dict[str, Any]:
        """`health` and `forgetting` as JSON values, those that there are."""
        found = {"health": self.health, "forgetting": self.forgetting}
        return {name: one.model_dump(mode="json") for name, one in found.items() if one is not None}

    def write(self, run: Path) -> None:
        """Write them into a run's directory in the making, a file each."""
        from mlx_medlora.files import write_json

        for name, value in self.results().items():
            write_json(run / f"{name}.json", value)

    def lines(self) -> list[str]:
        """One line a finding."""
        return [] if self.health is None else lines(self.health)


def lines(health: Health) -> list[str]:
    """One line a finding: `Overfitting: no. ...`, with advice where there is some."""
    told = {True: "found", False: "no", None: "cannot be told"}
    return [
        f"{finding.kind.capitalize()}: {told[finding.found]}. {finding.sentence} {finding.advice}".rstrip()
        for finding in health.findings
    ]
