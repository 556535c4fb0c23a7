"""What lies beside a run and belongs on its page: the adapter's record, curves, certificate, other checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.adapters import FINGERPRINTS, adapter_of, record_of, record_of_model
from mlx_medlora.evaluation.results import Heatmaps, Measure
from mlx_medlora.evaluation.results.measures import ShareInterval
from mlx_medlora.evaluation.runs import HEATMAPS, Run
from mlx_medlora.files import read_json
from mlx_medlora.report.words import last_part

DEPENDENCE = "dependence.json"
HEALTH = "health.json"
FORGETTING = "forgetting.json"
UNREAD = (
    "its training curves and record are left out, and whether it was trained on these very cases could not "
    "be looked up"
)


class _Open(BaseModel):
    """Another room's file: fields not named here are let through and not shown."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Occlusion(_Open):
    """One case's heatmap: an SVG or PNG file in the run's directory, by its relative path, or SVG text."""

    id: str
    path: str = Field(validation_alias=AliasChoices("path", "svg_or_png_path"))


class Dependence(_Open):
    """`dependence.json`: whether the answers come from the image, and whether the text gives them away.

    `looks` and `shortcut` are None where these cases cannot tell; `hardly` where the image gives something,
    and little.
    """

    verdict: str
    looks: bool | None = None
    shortcut: bool | None = None
    hardly: bool = False
    sentences: list[str] = []
    figures: list[Measure] = []
    occlusion: list[Occlusion] = []

    @property
    def box(self) -> str:
        """How the verdict is shown: `pass`, `fail` or, where it is neither, `undecided`."""
        return "undecided" if self.looks is None else "pass" if self.looks else "fail"

    @property
    def sign(self) -> str:
        """What stands before the verdict: a warning is no question."""
        return "!" if self.hardly else {"pass": "✓", "fail": "✗"}.get(self.box, "?")


class Finding(_Open):
    """One thing looked for in the training run; `found` is None where it cannot be told."""

    kind: str
    found: bool | None
    sentence: str
    advice: str = ""


class Health(_Open):
    """`health.json`: overfitting, underfitting, forgetting."""

    findings: list[Finding]


class Forgetting(_Open):
    """`forgetting.json`: how far the adapter moves the base on general questions, in nats a token."""

    n: int
    kl: Measure
    loss_change: Measure
    threshold: float


class Rung(_Open):
    """One comparison of the ladder."""

    number: int
    name: str
    status: str
    error: float | None = None
    tolerance: float | None = None


class Certificate(_Open):
    """What `parity --output` wrote."""

    passed: bool
    model: str
    adapter: str
    rungs: list[Rung]
    fingerprint: str = ""
    versions: dict[str, str] = {}
    made: str = ""


class Point(_Open):
    """A row of `metrics.jsonl`: an update's loss, or an epoch's losses."""

    event: Literal["step", "epoch"]
    epoch: int
    step: int | None = None
    loss: float | None = None
    learning_rate: float | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_accuracy_interval: ShareInterval | None = None
    best: bool = False


@dataclass(frozen=True)
class Beside:
    """Everything that was found. `notes` say what was there and could not be read."""

    record: dict[str, Any] = field(default_factory=dict)
    fused: dict[str, Any] = field(default_factory=dict)
    base: str | None = None
    curve: list[Point] = field(default_factory=list)
    certificate: Certificate | None = None
    dependence: Dependence | None = None
    health: Health | None = None
    forgetting: Forgetting | None = None
    heatmaps: Heatmaps | None = None
    notes: tuple[str, ...] = ()


def look_beside(run: Run, adapter: Path | None = None) -> Beside:
    """Read what lies in the run's directory, its adapter's and its model's; nothing of it is required.

    Raises InputError where `adapter`, its directory now, is given and is not the one that was evaluated.
    """
    notes: list[str] = []
    directory, model = run.directory, run.place("model")
    try:
        adapter = adapter_of(run, adapter)
    except InputError as error:
        if adapter is not None:
            raise
        notes.append(f"{error.message}: {UNREAD}")
    return Beside(
        record=_record(adapter, notes),
        fused=_fused(model, notes),
        base=_base(_object(adapter, "adapter_config.json", notes)),
        curve=_curve(adapter, notes),
        certificate=next(_certificates([directory, adapter, model], run.scorecard.about, notes), None),
        dependence=_parsed(Dependence, directory / DEPENDENCE, notes),
        health=_parsed(Health, directory / HEALTH, notes) or _of_adapter(adapter, notes),
        forgetting=_parsed(Forgetting, directory / FORGETTING, notes),
        heatmaps=_parsed(Heatmaps, directory / HEATMAPS, notes),
        notes=tuple(notes),
    )


def _object(directory: Path | None, name: str, notes: list[str]) -> dict[str, Any]:
    if directory is None or not (directory / name).is_file():
        return {}
    try:
        raw = read_json(directory / name)
    except InputError as error:
        notes.append(f"{name} could not be read: {error.message}")
        return {}
    return raw if isinstance(raw, dict) else {}


def _record(adapter: Path | None, notes: list[str]) -> dict[str, Any]:
    """`run.json`, or what an exported adapter says of its data."""
    try:
        return {} if adapter is None else record_of(adapter)
    except InputError as error:
        notes.append(f"the adapter's record could not be read: {error.message}")
        return {}


def _fused(model: Path | None, notes: list[str]) -> dict[str, Any]:
    """What a fused model says of its adapter's data."""
    try:
        return {} if model is None else record_of_model(model)
    except InputError as error:
        notes.append(f"the model's record could not be read: {error.message}")
        return {}


def _base(config: dict[str, Any]) -> str | None:
    """The base model's name in an adapter's configuration."""
    base = config.get("base")
    found = base.get("id") if isinstance(base, dict) else config.get("base_model_name_or_path")
    return found if isinstance(found, str) else None


def _curve(adapter: Path | None, notes: list[str]) -> list[Point]:
    path = None if adapter is None else adapter / "metrics.jsonl"
    if path is None or not path.is_file():
        return []
    try:
        return [Point.model_validate(row) for _, row in read_jsonl(path)]
    except (InputError, ValidationError):
        notes.append("the adapter's metrics.jsonl is damaged: no curves are shown")
        return []


def _certificates(
    places: list[Path | None], about: dict[str, Any], notes: list[str]
) -> Iterator[Certificate]:
    """Those of the evaluated model, or of the weights it was converted from."""
    own = [about[key] for key in FINGERPRINTS if about.get(key)]
    for place in places:
        for path in sorted(place.glob("*certificate*.json")) if place is not None else []:
            found = _parsed(Certificate, path, notes)
            if found is None:
                continue
            if own and found.fingerprint and found.fingerprint not in own:
                notes.append(f"{path.name} is of another model ({last_part(found.model)}) and is left out")
                continue
            yield found


def _of_adapter(adapter: Path | None, notes: list[str]) -> Health | None:
    return None if adapter is None else _parsed(Health, adapter / HEALTH, notes)


def _parsed(kind: type[Any], path: Path, notes: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return kind.model_validate(read_json(path))
    except (InputError, ValidationError):
        notes.append(f"{path.name} is not of the form this release knows, and is left out")
        return None
