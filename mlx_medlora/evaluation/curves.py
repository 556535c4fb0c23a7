"""The curves of a training run, as its adapter directory keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlx_medlora.cases.rows import read_jsonl
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.results.measures import ShareInterval
from mlx_medlora.files import read_json
from mlx_medlora.settings import describe

METRICS, RECORD = "metrics.jsonl", "run.json"


class Point(BaseModel):
    """One epoch: mean losses in nats a supervised token, accuracy a share; epoch 0 is the base."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    epoch: int = Field(ge=0)
    train_loss: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = Field(None, ge=0, le=1)
    val_accuracy_interval: ShareInterval | None = None


@dataclass(frozen=True)
class Curves:
    """A run's epochs in order, `base` apart; how many cases and supervised tokens validate it, if known.

    `replayed` where general rows are part of the training loss; `settings` are the run's, by name.
    """

    points: tuple[Point, ...]
    base: Point | None = None
    cases: int | None = None
    tokens: int | None = None
    replayed: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def validated(self) -> tuple[Point, ...]:
        """The epochs with a validation loss."""
        return tuple(point for point in self.points if point.val_loss is not None)

    @property
    def kept(self) -> Point | None:
        """The epoch of the lowest validation loss, the first of equals: the one whose adapter is kept."""
        return min(self.validated, key=lambda point: point.val_loss or 0.0, default=None)


def read_curves(adapter: Path) -> Curves | None:
    """The curves in an adapter directory; None without a `metrics.jsonl` (an adapter from elsewhere).

    Raises InputError, with file and line, for one that is damaged.
    """
    path = adapter / METRICS
    if not path.is_file():
        return None
    points, replayed = [], False
    for line, row in read_jsonl(path):
        if not isinstance(row, dict):
            raise InputError("expected an object", path=path, line=line)
        replayed = replayed or bool(row.get("replay_rows"))
        if row.get("event") == "epoch":
            points.append(_point(row, path, line))
    record = read_json(adapter / RECORD) if (adapter / RECORD).is_file() else {}
    val, settings = _within(record, "data", "val"), _within(record, "settings")
    return Curves(
        points=tuple(point for point in points if point.epoch),
        base=next((point for point in points if not point.epoch), None),
        cases=_count(val, "rows"),
        tokens=_count(val, "supervised_tokens"),
        replayed=replayed,
        settings=settings,
    )


def _point(row: dict[str, Any], path: Path, line: int) -> Point:
    try:
        return Point.model_validate(row)
    except ValidationError as error:
        raise InputError(describe(error), path=path, line=line) from error


def _within(record: Any, *names: str) -> dict[str, Any]:
    """The object at that place of `run.json`, or an empty one."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record if isinstance(record, dict) else {}


def _count(about: dict[str, Any], name: str) -> int | None:
    found = about.get(name)
    return found if isinstance(found, int) else None
