"""A run that ends anywhere goes on to the bytes of one that did not end."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_medlora.errors import InputError, Interrupted, MedloraError, NotANumber, OutOfMemory
from mlx_medlora.lora.load import load_model
from mlx_medlora.training.events import Epoch, Event, Plan, Resumed, Step
from mlx_medlora.training.run import Validation, run_training
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.workplace import newest_first, put

# five rows: batches of two, two and one; windows of two batches and one
SETTINGS = TrainSettings(epochs=3, batch_size=2, accumulate=2, lr=1e-3, rank=2, warmup=0.3, dropout=0.2)
Listen = Callable[[Event], None]


def settings(**changes: object) -> TrainSettings:
    return TrainSettings.model_validate(SETTINGS.model_dump() | changes)


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the timings; run.json without what a clock or the memory says."""
    found = {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
    found = {name: content for name, content in found.items() if Path(name).stem != "timings"}
    if "run.json" in found:
        run = json.loads(found["run.json"])
        del run["seconds"], run["peak_memory"]
        for epoch in run["epochs"]:
            del epoch["seconds"]
        found["run.json"] = json.dumps(run).encode()
    found.pop("owner.json", None)
    return found


def at(kind: type[Event], number: int, act: Callable[[], object]) -> Listen:
    """Acts when update or epoch `number` is told."""

    def listen(event: Event) -> None:
        if isinstance(event, kind) and (event.step if isinstance(event, Step) else event.epoch) == number:
            act()

    return listen


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def work_of(output: Path) -> Path:
    return output.parent / f".{output.name}.run"


def steps_of(output: Path) -> list[str]:
    return sorted(path.name for path in (work_of(output) / "checkpoints").iterdir())


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2, 5, 6])
def test_a_signal_saves_and_resume_gives_the_same_bytes(
    tiny_medgemma: Path, data: Path, tmp_path: Path, step: int, kind: signal.Signals
) -> None:
    """Updates 1 and 5 stand inside an epoch, 2 and 6 at an end, 6 at the run's."""
    if kind == signal.SIGTERM and step != 5:
        pytest.skip("one place is enough for the second signal")
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
        "optimizer.safetensors",
        "random.json",
        "state.json",
    }
    assert {file: first[file] for file in files} == {file: second[file] for file in files}
    assert first["metrics.jsonl"] == second["metrics.jsonl"]


def test_validation_is_left_at_once_and_made_again(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """A validator that draws random numbers: the same ones the second time."""
    draws: list[float] = []

    def validator(end_at: int) -> Callable[[Validation], float]:
        def validate(given: Validation) -> float:
            draws.append(float(mx.random.uniform()) + random.random())
            if len(draws) == end_at:
                ctrl_c()
                pytest.fail("the signal did not end the validation")
            return draws[-1]

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


def interrupted(model: Path, data: Path, output: Path, step: int = 5) -> None:
    with pytest.raises(Interrupted):
        run_training(model, data, output, settings(checkpoint_every=0), listeners=[at(Step, step, ctrl_c)])


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
    for keep, kept in ((1, ["step-000005"]), (3, ["step-000003", "step-000004", "step-000005"])):
        output = tmp_path / str(keep)
        stop = at(Step, 5, ctrl_c)
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
    assert steps_of(tmp_path / "a") == ["step-000004", "step-000005"]


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
    assert steps_of(output) == ["step-000004", "step-000005"]  # nothing of this has harmed the run
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


def test_a_failure_keeps_the_checkpoints(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise MedloraError("the loss is nan", hint="Lower --lr.")

    output = tmp_path / "a"
    with pytest.raises(MedloraError, match="the loss is nan") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[at(Step, 3, fail)])
    assert str(caught.value.hint).startswith("Lower --lr. The run is saved in")
    assert steps_of(output) == ["step-000000", "step-000002"]


def test_a_full_disk_keeps_the_last_checkpoint(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_medlora.training import keeper

    def full() -> None:
        def write(*_: object, **__: object) -> None:
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(keeper, "save_adapter", write)

    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)
    output = tmp_path / "a"
    with monkeypatch.context(), pytest.raises(MedloraError, match="no space left on the disk") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[at(Step, 3, full)])
    assert caught.value.exit_code == 1
    assert steps_of(output)[-1] == "step-000002"
    assert not list((work_of(output) / "checkpoints").glob(".*")), "the room of the failed one is given back"
    monkeypatch.undo()
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    assert contents(output) == contents(tmp_path / "whole")


def test_no_number_keeps_the_last_good_adapter(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """A rate that no adapter survives: the one before the refused update is saved, though none was due."""
    output, steep = tmp_path / "a", settings(lr=1e30, epochs=2, batch_size=1, accumulate=1, warmup=0.0)
    with pytest.raises(
        NotANumber, match=r"the loss is nan at update 2, epoch 1; row: train.jsonl:\d "
    ) as caught:
        run_training(tiny_medgemma, data, output, steep)
    assert "Lower --lr" in str(caught.value.hint)
    assert steps_of(output) == ["step-000000", "step-000001"]
    kept = load(work_of(output) / "checkpoints" / "step-000001" / "adapters.safetensors")
    assert all(mx.isfinite(array).all() for array in kept.values())
    calm = steep.model_copy(update={"lr": 1e-3})
    result = run_training(tiny_medgemma, data, tmp_path / "b", calm)
    assert result.record.updates == 10


def load(path: Path) -> dict[str, mx.array]:
    found = mx.load(str(path))
    assert isinstance(found, dict)
    return found


def test_memory_that_runs_out_names_the_setting_to_lower(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MLX's own words, at the third update; plan's figures, and a run that goes on with what was named."""
    output, large = tmp_path / "a", settings(batch_size=4, accumulate=1, checkpoint_every=0)
    for change, flag in (({}, "--grad-checkpoint on takes"), ({"grad_checkpoint": "on"}, "--batch-size 2")):
        own = large.model_copy(update=change)
        with pytest.raises(OutOfMemory, match="memory ran out in training") as caught:
            run_training(tiny_medgemma, data, output, own, listeners=[at(Step, 3, no_memory)])
        hint = str(caught.value.hint)
        assert flag in hint
        assert "By `mlx-medlora plan` it takes 0." in hint
        assert "The run is saved in" in hint
        names = hint.split("--resume-anyway ")[1].split(".")[0].split(",")
        fewer = {"grad_checkpoint": "on"} if not change else {"batch_size": 2, "accumulate": 2}
        own = own.model_copy(update=fewer)
        run_training(tiny_medgemma, data, output, own, resume=True, resume_anyway=names)
        shutil.rmtree(output)


def no_memory() -> None:
    raise RuntimeError("[malloc] Unable to allocate 17179869184 bytes.")


def test_a_checkpoint_that_is_replaced_stays_until_the_new_one_is_read_back(tmp_path: Path) -> None:
    for name in ("step-000003", ".step-000003.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text(name)

    def damaged(target: Path) -> None:
        raise InputError("damaged", path=target)

    with pytest.raises(InputError, match="damaged"):
        put(tmp_path / ".step-000003.partial", tmp_path / "step-000003", damaged)
    assert (tmp_path / "step-000003" / "state.json").read_text() == "step-000003"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000003"]


def test_the_newest_checkpoint_is_that_of_the_highest_step(tmp_path: Path) -> None:
    """A million updates have a seventh digit."""
    for name in ("step-999999", "step-1000000", "step-000007", "step-mine"):
        (tmp_path / name).mkdir()
    assert [path.name for path in newest_first(tmp_path)] == ["step-1000000", "step-999999", "step-000007"]


@pytest.mark.parametrize("moment", ["rename", "remove"])
def test_what_a_kill_leaves_while_a_checkpoint_is_replaced(
    tiny_medgemma: Path, data: Path, tmp_path: Path, moment: str
) -> None:
    """The new one takes the old one's name in two renames; a partial one may lie beside."""
    output = tmp_path / "a"
    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)
    interrupted(tiny_medgemma, data, output)
    checkpoints = work_of(output) / "checkpoints"
    newest = checkpoints / "step-000005"
    shutil.copytree(newest, checkpoints / ".step-000006.partial")
    if moment == "rename":
        newest.rename(checkpoints / ".step-000005.old")
    else:
        shutil.copytree(newest, checkpoints / ".step-000005.old")
    told: list[Event] = []
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True, listeners=[told.append])
    assert next(event for event in told if isinstance(event, Resumed)) == Resumed(5, 6)
    assert contents(output) == contents(tmp_path / "whole")


def command(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    options = ["--epochs", "4", "--batch-size", "2", "--rank", "2", "--lr", "1e-3", "--checkpoint-every", "0"]
    place = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return [sys.executable, "-m", "mlx_medlora.cli.app", "train", *place, *options, *more]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)


def newest(output: Path) -> int:
    """The step of the newest checkpoint; -1 without one."""
    found = (work_of(output) / "checkpoints").glob("step-*")
    return max((int(path.name.removeprefix("step-")) for path in found), default=-1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # eight processes, each of which imports everything
def test_killed_at_random_instants(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    """A checkpoint after each update, so that many kills fall into the writing of one."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(tiny_medgemma, data, whole), check=True, capture_output=True)
    chance, reached = random.Random(5), -1
    for kill in range(6):
        process = start(command(tiny_medgemma, data, output, *(["--resume"] if kill else [])))
        wait_for(lambda: newest(output) > reached, process)  # noqa: B023
        time.sleep(chance.uniform(0, 0.15))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), errors
        if output.exists():
            break
        assert newest(output) >= reached - 1, "at most the one that was being replaced is under another name"
        reached = newest(output)
    else:
        last = [*command(tiny_medgemma, data, output), "--resume"]
        ended = subprocess.run(last, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
    assert contents(output) == contents(whole)


def test_one_owner_and_what_the_signals_say(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "a"
    arguments = [*command(tiny_medgemma, data, output), "--epochs", "9999"]
    process = start(arguments)
    wait_for(lambda: newest(output) >= 3, process)
    other = subprocess.run([*arguments, "--resume"], capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert f"another run writes here: process {process.pid} on" in other.stderr
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=100)
    assert (process.returncode, said) == (130, "")
    assert "Stopping: this update is finished and saved first" in errors
    assert "updates; all are saved" in errors
    assert "Traceback" not in errors
    hint = errors.strip().splitlines()[-1]
    assert "continue with: mlx-medlora train --model" in hint
    assert hint.endswith(" --epochs 9999 --resume")


BUSY = """
import mlx_medlora.gemma
import mlx.core as mx
from mlx_medlora.training.stop import Stop
with Stop():
    print("ready", flush=True)
    x = mx.eye(1500)
    for _ in range(100_000):
        x = x @ mx.eye(1500)
    mx.eval(x)
"""


def test_a_second_ctrl_c_ends_at_once() -> None:
    """Also while the main thread computes, where no handler of Python's runs."""
    process = start([sys.executable, "-c", BUSY])
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    assert process.stderr.readline().startswith("Stopping: ")
    process.send_signal(signal.SIGTERM)  # mlx.launch sends one to ranks that Ctrl-C ends already
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Stopped at once; the last checkpoint is whole" in errors
