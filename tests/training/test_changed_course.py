"""What a changed order of rows, or a validation that fails, does to rate, count, best adapter and place."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ongoing import SETTINGS, Listen, at, contents, ctrl_c, settings, steps_of, work_of

from mlx_medlora.errors import InputError, Interrupted, MedloraError, NotANumber
from mlx_medlora.training.events import Accuracy, Event, Plan, Resumed, Step
from mlx_medlora.training.run import Validation, run_training
from mlx_medlora.training.step import Stepper
from mlx_medlora.training.trainer import Trainer

PLAIN = {"epochs": 2, "batch_size": 1, "accumulate": 1, "warmup": 0.0}  # five updates an epoch, ten in all


class Run:
    """A run of one output, in parts, and what each part told."""

    def __init__(self, model: Path, data: Path, output: Path) -> None:
        self.model, self.data, self.output = model, data, output
        self.told: list[Event] = []

    def __call__(self, *anyway: str, stop: int = 0, listen: Listen | None = None, **changes: Any) -> None:
        self.told.clear()
        more = {"resume": work_of(self.output).exists(), "resume_anyway": anyway}
        listeners = [self.told.append, *([listen] if listen else [])]
        if not stop:
            run_training(self.model, self.data, self.output, settings(**changes), listeners=listeners, **more)
            return
        listeners.append(at(Step, stop, ctrl_c))
        with pytest.raises(Interrupted):
            run_training(self.model, self.data, self.output, settings(**changes), listeners=listeners, **more)

    def steps(self) -> list[Step]:
        return [event for event in self.told if isinstance(event, Step)]

    def rates(self) -> list[float]:
        return [step.learning_rate for step in self.steps()]


@pytest.fixture
def run(tiny_medgemma: Path, data: Path, tmp_path: Path) -> Run:
    return Run(tiny_medgemma, data, tmp_path / "a")


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    ("change", "stop", "left"),
    [
        ({"seed": 1}, 9, 5),  # four of the second epoch's updates are made again
        ({"seed": 1}, 4, 10),
        ({"batch_size": 2, "accumulate": 2}, 8, 2),  # what runs out of memory is told to do
        ({"batch_size": 3}, 5, 2),  # between two epochs: fewer updates are left than were planned
    ],
)
def test_the_rate_falls_to_the_last_update_of_a_changed_order(
    run: Run, schedule: str, change: dict[str, Any], stop: int, left: int
) -> None:
    run(stop=stop, schedule=schedule, **PLAIN)
    before, names = run.rates(), tuple(name.replace("_", "-") for name in change)
    run(*names, schedule=schedule, **PLAIN | change)
    rates, total = [*before, *run.rates()], stop + left
    assert len(rates) == total
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert rates[-1] > 0
    assert next(e for e in run.told if isinstance(e, Resumed)) == Resumed(stop, total, _said(names))
    assert next(e for e in run.told if isinstance(e, Plan)).steps == total
    assert run.steps()[-1].seconds_left == 0
    assert all(step.seconds_left >= 0 for step in run.steps())


def _said(names: tuple[str, ...]) -> tuple[str, ...]:
    allowed = "has changed since the checkpoint, as --resume-anyway allows"
    return tuple(
        f"{name.replace('-', '_')} {allowed}" for name in sorted(names, key=lambda n: n.replace("-", "_"))
    )


def test_a_changed_order_that_is_resumed_again_keeps_its_rates(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    """The same bytes as of a run that was ended once, checkpoints and their course included."""
    found = []
    for name, stops in (("once", ()), ("twice", (11,))):
        run = Run(tiny_medgemma, data, tmp_path / name)
        run(stop=8, **PLAIN)
        for stop in stops:
            run("seed", stop=stop, seed=3, **PLAIN)
        run("seed", seed=3, **PLAIN)
        found.append(contents(run.output))
    assert found[0] == found[1]


def test_a_new_schedule_is_that_of_a_run_which_had_it_from_the_start(run: Run) -> None:
    run(stop=5, **PLAIN)
    run("epochs", **PLAIN | {"epochs": 4})
    assert run.rates()[0] == pytest.approx(SETTINGS.lr * 15 / 20)
    assert run.steps()[-1].step == 20


def test_a_checkpoint_of_an_older_release_goes_on(run: Run) -> None:
    """It says nothing of its course."""
    run(stop=5, **PLAIN)
    for state in work_of(run.output).rglob("state.json"):
        text = state.read_text()
        start = text.index('  "trained"')
        state.write_text(text[:start] + text[text.index('  "best_epoch"') :])
    run(**PLAIN)
    assert run.rates()[0] == pytest.approx(SETTINGS.lr * 5 / 10)
    assert run.steps()[-1].step == 10


def test_the_best_adapter_stays_when_a_begun_epoch_is_begun_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed with another order, the first update refused: the adapter saved then is not the best."""
    losses = {0: 9.0, 1: 1.0, 2: 2.0}
    monkeypatch.setattr(Trainer, "validation_loss", lambda self, epoch: losses[epoch])
    run(stop=7, **PLAIN)
    weights = work_of(run.output) / "adapters.safetensors"
    best, plain = weights.read_bytes(), Stepper.update

    def refused(*_: object) -> None:
        raise NotANumber("the loss is nan")

    monkeypatch.setattr(Stepper, "update", refused)
    monkeypatch.setattr(Stepper, "is_sound", lambda self, batch: True)
    with pytest.raises(NotANumber):
        run("batch-size", **PLAIN | {"batch_size": 3})
    monkeypatch.setattr(Stepper, "update", plain)
    kept = work_of(run.output) / "checkpoints" / "step-000007"
    assert (kept / "best" / "adapters.safetensors").read_bytes() == best
    run("batch-size", **PLAIN | {"batch_size": 3})
    assert (run.output / "adapters.safetensors").read_bytes() == best
    assert (run.output / "checkpoints" / "last" / "adapters.safetensors").read_bytes() != best


@pytest.mark.parametrize(
    "error", [InputError("the dataset has no split 'val'"), RuntimeError("[metal] lost")]
)
def test_a_failure_in_validation_costs_no_update(run: Run, tmp_path: Path, error: Exception) -> None:
    """After the first epoch, of which nothing was saved yet; the same bytes when it is put right."""
    failing = True

    def validate(given: Validation) -> Accuracy:
        if failing and steps_of(run.output) == ["step-000000"]:
            raise error
        return Accuracy(0.5, None)

    run_training(
        run.model, run.data, tmp_path / "whole", SETTINGS, validate=lambda given: Accuracy(0.5, None)
    )
    with pytest.raises(type(error)) as caught:
        run_training(run.model, run.data, run.output, SETTINGS, validate=_later(validate))
    if isinstance(caught.value, MedloraError):
        assert "The run is saved in" in str(caught.value.hint)
    assert steps_of(run.output) == ["step-000000", "step-000002"]
    failing = False
    told: list[Event] = []
    run_training(
        run.model, run.data, run.output, SETTINGS, validate=validate, resume=True, listeners=[told.append]
    )
    assert [event.step for event in told if isinstance(event, Step)] == [3, 4, 5, 6]
    assert contents(run.output) == contents(tmp_path / "whole")


def _later(validate: Any) -> Any:
    """`validate` after training began: before it, nothing of a failure has to be kept."""
    calls = 0

    def chosen(given: Validation) -> Accuracy:
        nonlocal calls
        calls += 1
        return Accuracy(0.5, None) if calls == 1 else validate(given)

    return chosen


def test_an_epoch_that_only_lacks_its_validation_is_not_trained_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out there: smaller batches, as the hint says, and the validation."""
    plain = Trainer.validation_loss

    def failing(self: Trainer, epoch: int) -> float:
        if epoch == 2:
            raise MedloraError("too large")
        return plain(self, epoch)

    monkeypatch.setattr(Trainer, "validation_loss", failing)
    with pytest.raises(MedloraError, match="too large"):
        run(**PLAIN)
    monkeypatch.setattr(Trainer, "validation_loss", plain)
    run("batch-size", **PLAIN | {"batch_size": 2})
    assert run.steps() == []
    assert (run.output / "run.json").is_file()
