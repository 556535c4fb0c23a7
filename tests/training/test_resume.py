"""A run that ends anywhere goes on to the bytes of one that did not end."""

from __future__ import annotations

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from ongoing import SETTINGS, at, contents, ctrl_c, interrupted, settings, steps_of, work_of

from mlx_medlora.errors import InputError, Interrupted
from mlx_medlora.lora.load import load_model
from mlx_medlora.training.events import Accuracy, Epoch, Event, Plan, Resumed, Step
from mlx_medlora.training.run import Validation, run_training


@pytest.mark.parametrize(
    ("kind", "step"), [*((signal.SIGINT, step) for step in (1, 2, 5, 6)), (signal.SIGTERM, 5)]
)
def test_a_signal_saves_and_resume_gives_the_same_bytes(
    tiny_medgemma: Path, data: Path, tmp_path: Path, kind: signal.Signals, step: int
) -> None:
    """Updates 1 and 5 stand inside an epoch, 2 and 6 at an end, 6 at the run's."""
    whole, output = tmp_path / "whole", tmp_path / "adapter"
    run_training(tiny_medgemma, data, whole, SETTINGS)
    stop = at(Step, step, lambda: signal.raise_signal(kind))
    before = signal.getsignal(kind)
    with pytest.raises(Interrupted, match=f"interrupted after {step} of 6 updates") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[stop], again="the words")
    assert signal.getsignal(kind) is before
    assert "continue with: the words" in str(caught.value.hint)
    assert not output.exists()
    checkpoint = work_of(output) / "checkpoints" / f"step-{step:06}"
    load_model(tiny_medgemma, checkpoint)  # an adapter as any other
    told: list[Event] = []
    result = run_training(tiny_medgemma, data, output, SETTINGS, resume=True, listeners=[told.append])
    assert [event for event in told if isinstance(event, Resumed)] == [Resumed(step, 6)]
    assert [event.step for event in told if isinstance(event, Step)] == list(range(step + 1, 7))
    assert contents(output) == contents(whole)
    assert result.record.updates == 6
    assert not work_of(output).exists()


def test_a_checkpoint_is_the_same_whatever_came_before(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    """One run straight to update 5, one with an end after each update: moments and generators included."""
    straight, broken = tmp_path / "straight" / "a", tmp_path / "broken" / "a"
    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, straight, SETTINGS, listeners=[at(Step, 5, ctrl_c)])
    for step in range(1, 6):
        with pytest.raises(Interrupted):
            stop = at(Step, step, ctrl_c)
            run_training(tiny_medgemma, data, broken, SETTINGS, listeners=[stop], resume=step > 1)
    name = "checkpoints/step-000005/"
    first, second = contents(work_of(straight)), contents(work_of(broken))
    files = {file for file in first if file.startswith(name)}
    assert {file.removeprefix(name) for file in files} == {
        "adapter_config.json",
        "adapters.safetensors",
        "best/adapter_config.json",
        "best/adapters.safetensors",
        "best/training_data.json",
        "optimizer.safetensors",
        "random.json",
        "state.json",
        "training_data.json",
    }
    assert {file: first[file] for file in files} == {file: second[file] for file in files}
    assert first["metrics.jsonl"] == second["metrics.jsonl"]


def test_validation_is_left_at_once_and_made_again(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """A validator that draws random numbers: the same ones the second time."""
    draws: list[float] = []

    def validator(end_at: int) -> Callable[[Validation], Accuracy]:
        def validate(given: Validation) -> Accuracy:
            draws.append(float(mx.random.uniform()) + random.random())
            if len(draws) == end_at:
                ctrl_c()
                pytest.fail("the signal did not end the validation")
            return Accuracy(draws[-1], (0.25, 0.75))

        return validate

    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS, validate=validator(0))
    whole, output = list(draws), tmp_path / "adapter"
    draws.clear()
    with pytest.raises(Interrupted, match="interrupted after 4 of 6 updates"):
        run_training(tiny_medgemma, data, output, SETTINGS, validate=validator(3))
    run_training(tiny_medgemma, data, output, SETTINGS, validate=validator(0), resume=True)
    assert draws == [*whole[:3], *whole[2:]]
    assert contents(output) == contents(tmp_path / "whole")


def test_patience_is_counted_over_both_parts(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_medlora.training.trainer import Trainer

    losses = {0: 9.0, 1: 1.0, 2: 2.0, 3: 0.5}
    monkeypatch.setattr(Trainer, "validation_loss", lambda self, epoch: losses[epoch])
    patient = settings(patience=1, epochs=5)
    stop = at(Epoch, 2, ctrl_c)  # the epoch after which patience ends
    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, tmp_path / "a", patient, listeners=[stop])
    record = run_training(tiny_medgemma, data, tmp_path / "a", patient, resume=True).record
    assert (record.stopped_early, record.best_epoch, record.updates) == (True, 1, 4)


def test_no_update_no_trace(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    for listen in (at(Epoch, 0, ctrl_c), lambda event: ctrl_c() if isinstance(event, Plan) else None):
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, listeners=[listen])
        assert sorted(tmp_path.iterdir()) == before


def test_what_is_there_is_not_overwritten(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    with pytest.raises(InputError, match="there is no run to resume"):
        run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    interrupted(tiny_medgemma, data, output)
    with pytest.raises(InputError, match="an interrupted run for this output is in") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS)
    assert "--resume" in str(caught.value.hint)
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    with pytest.raises(InputError, match="this run is complete: there is nothing to resume"):
        run_training(tiny_medgemma, data, output, SETTINGS, resume=True)


def test_the_current_directory_can_be_the_output(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    interrupted(tiny_medgemma, data, Path("."))
    assert work_of(tmp_path / "a").is_dir()
    assert list((tmp_path / "a").iterdir()) == []
    run_training(tiny_medgemma, data, Path("."), SETTINGS, resume=True)
    assert (tmp_path / "a" / "run.json").is_file()
    assert not work_of(tmp_path / "a").exists()


def test_a_name_that_is_taken_meanwhile_costs_no_update(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a"

    def take() -> None:
        output.mkdir()
        (output / "mine.txt").touch()

    with pytest.raises(InputError, match="cannot write: Directory not empty") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[at(Epoch, 3, take)])
    assert caught.value.path == str(output)
    assert "continue with" in str(caught.value.hint)
    shutil.rmtree(output)
    assert run_training(tiny_medgemma, data, output, SETTINGS, resume=True).record.updates == 6


def test_keep_and_a_checkpoint_each_epoch(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """Two updates an epoch: 2 is validated, and goes with 4, which is too."""
    three = [f"step-{step:06}" for step in (3, 4, 5)]
    for keep, end, kept in ((1, 5, three[2:]), (2, 3, ["step-000002", "step-000003"]), (3, 5, three)):
        output = tmp_path / str(keep)
        stop = at(Step, end, ctrl_c)
        with pytest.raises(Interrupted):
            often = settings(checkpoint_every=0, keep=keep)
            run_training(tiny_medgemma, data, output, often, listeners=[stop])
        assert steps_of(output) == kept
    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, tmp_path / "c", settings(keep=9), listeners=[at(Step, 5, ctrl_c)])
    assert steps_of(tmp_path / "c") == ["step-000000", "step-000002", "step-000004", "step-000005"]


def test_a_damaged_checkpoint_is_said_and_the_one_before_is_taken(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a"
    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)
    interrupted(tiny_medgemma, data, output)
    moments = work_of(output) / "checkpoints" / "step-000005" / "optimizer.safetensors"
    moments.write_bytes(moments.read_bytes()[:-4] + b"abcd")
    told: list[Event] = []
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True, listeners=[told.append])
    resumed = next(event for event in told if isinstance(event, Resumed))
    assert resumed.step == 4
    assert "step-000005/optimizer.safetensors: damaged" in resumed.remarks[0]
    assert contents(output) == contents(tmp_path / "whole")


def test_all_damaged(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    interrupted(tiny_medgemma, data, tmp_path / "a")
    for state in work_of(tmp_path / "a").rglob("state.json"):
        state.write_text("{")
    with pytest.raises(InputError, match=r"no checkpoint can be read: .*step-000005/state.json: damaged"):
        run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, resume=True)
    assert steps_of(tmp_path / "a") == ["step-000003", "step-000004", "step-000005"]


def test_changes_are_named_and_refused(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    interrupted(tiny_medgemma, data, output)

    def resume(changes: dict[str, object], anyway: str = "", model: Path = tiny_medgemma) -> None:
        names = anyway.split(",") if anyway else []
        run_training(model, data, output, settings(**changes), resume=True, resume_anyway=names)

    with pytest.raises(InputError, match=r"lr was 0.001, is 0.002; schedule was linear, is cosine") as caught:
        resume({"lr": 2e-3, "schedule": "cosine"})
    assert "--resume-anyway lr,schedule" in str(caught.value.hint)
    assert "the same command" not in str(caught.value.hint)  # it would be refused again
    with pytest.raises(InputError, match=r"changed since the checkpoint: schedule was"):
        resume({"lr": 2e-3, "schedule": "cosine"}, "lr")
    with pytest.raises(InputError, match="shape cannot change within a run: rank was 2, is 4"):
        resume({"rank": 4}, "rank")
    with pytest.raises(InputError, match="nothing is called wings"):
        resume({}, "wings")
    with pytest.raises(InputError, match="without --resume"):
        run_training(tiny_medgemma, data, output, SETTINGS, resume_anyway=["lr"])
    rows = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(rows.replace("film is normal", "film is odd", 1))
    with pytest.raises(InputError, match=r"changed since the checkpoint: data \(train\)"):
        resume({})
    (data / "train.jsonl").write_text(rows)
    shutil.copytree(tiny_medgemma, tmp_path / "other")
    file = str(next((tmp_path / "other").glob("*.safetensors")))
    tensors = mx.load(file)
    assert isinstance(tensors, dict)
    mx.eval(tensors)
    name = next(name for name in sorted(tensors) if name.endswith("k_proj.weight"))
    mx.save_safetensors(file, {**tensors, name: tensors[name] * 2}, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model \(fingerprint \w{12} then, \w{12} now\)"):
        resume({}, model=tmp_path / "other")
    assert steps_of(output) == [
        "step-000003",
        "step-000004",
        "step-000005",
    ]  # nothing of this has harmed the run
    resume({"lr": 2e-3, "epochs": 4, "keep": 7}, "lr,epochs")
    run = json.loads((output / "run.json").read_text())
    assert (run["updates"], run["settings"]["lr"], run["settings"]["keep"]) == (8, 2e-3, 7)


def test_another_order_begins_the_epoch_again(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    interrupted(tiny_medgemma, data, tmp_path / "a")
    told: list[Event] = []
    run_training(
        tiny_medgemma,
        data,
        tmp_path / "a",
        settings(batch_size=1),
        resume=True,
        resume_anyway=["batch-size"],
        listeners=[told.append],
    )
    assert [(e.step, e.epoch, e.rows) for e in told if isinstance(e, Step)] == [
        (6, 3, 2),
        (7, 3, 2),
        (8, 3, 1),
    ]
