"""A run that fails, and a checkpoint that is replaced, cost no update that was saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from ongoing import SETTINGS, at, contents, ctrl_c, interrupted, settings, steps_of, work_of

from mlx_medlora.errors import InputError, Interrupted, MedloraError, NotANumber, OutOfMemory
from mlx_medlora.training.events import Event, Resumed, Step
from mlx_medlora.training.ranks import Ranks
from mlx_medlora.training.run import run_training
from mlx_medlora.training.step import Stepper
from mlx_medlora.training.trainer import Trainer
from mlx_medlora.training.workplace import newest_first, put


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


def test_no_number_of_a_row_keeps_the_adapter_before_it(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before the refused update is saved, though none was due, and goes on to the same bytes."""
    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)
    output, plain = tmp_path / "a", Stepper.update

    def refused(self: Stepper, window: Any, step: int, epoch: int) -> Any:
        if step == 1:
            raise NotANumber("the loss is nan")
        return plain(self, window, step, epoch)

    monkeypatch.setattr(Stepper, "update", refused)
    with pytest.raises(NotANumber, match=r"the loss is nan; among the rows train.jsonl:\d "):
        run_training(tiny_medgemma, data, output, SETTINGS)
    assert steps_of(output) == ["step-000000", "step-000001"]
    monkeypatch.undo()
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize("before", ["nothing", "updates"])
def test_no_number_because_of_updates_goes_back_to_an_adapter_with_numbers(
    tiny_medgemma: Path, data: Path, tmp_path: Path, before: str
) -> None:
    """A rate that no adapter survives: its own updates are numbers, the next loss is none."""
    each = settings(epochs=2, batch_size=1, accumulate=1, warmup=0.0, checkpoint_every=0, schedule="constant")
    output, steep, taken = tmp_path / "a", each.model_copy(update={"lr": 1e30}), []
    if before == "updates":
        with pytest.raises(Interrupted):
            run_training(tiny_medgemma, data, output, each, listeners=[at(Step, 3, ctrl_c)])
        taken = ["lr"]
    with pytest.raises(
        NotANumber, match=r"the loss is nan at update \d, epoch 1; row: train.jsonl:\d "
    ) as caught:
        run_training(
            tiny_medgemma,
            data,
            output,
            steep,
            resume=before == "updates",
            resume_anyway=taken,
            again="x --resume",
        )
    assert "updates have spoilt the adapter, without it these rows give numbers" in str(caught.value.hint)
    if before == "nothing":
        assert not work_of(output).exists(), "the base alone is nothing to go on from"
        return
    assert str(caught.value.hint).endswith("--resume (a lower --lr takes --resume-anyway lr)")
    assert steps_of(output)[-2:] == ["step-000003", "step-000004.spoilt"]
    result = run_training(tiny_medgemma, data, output, each, resume=True)
    assert result.record.updates == 10
    run_training(tiny_medgemma, data, tmp_path / "whole", each)
    assert contents(output) == contents(tmp_path / "whole")


def test_what_another_rank_finds_spoilt_is_not_saved_here(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks do the same, also where rounding tells one of them something else."""
    output, plain = tmp_path / "a", Stepper.update
    spoilt: list[bool] = []

    def refused(self: Stepper, window: Any, step: int, epoch: int) -> Any:
        if step == 3:
            spoilt.append(True)
            raise NotANumber("the loss is nan")
        return plain(self, window, step, epoch)

    monkeypatch.setattr(Stepper, "update", refused)
    monkeypatch.setattr(Ranks, "any", lambda self, flag: flag or bool(spoilt))
    with pytest.raises(NotANumber):
        run_training(tiny_medgemma, data, output, SETTINGS)
    assert steps_of(output) == ["step-000000", "step-000002"]


def test_a_checkpoint_that_cannot_be_read_hides_no_error(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = settings(epochs=2, batch_size=1, accumulate=1, warmup=0.0, checkpoint_every=0)
    output, steep = tmp_path / "a", each.model_copy(update={"lr": 1e30})
    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, output, each, listeners=[at(Step, 3, ctrl_c)])
    newest, plain = work_of(output) / "checkpoints" / "step-000004" / "adapters.safetensors", Stepper.update

    def torn(self: Stepper, window: Any, step: int, epoch: int) -> Any:
        if step == 4:
            newest.write_bytes(b"torn")
        return plain(self, window, step, epoch)

    monkeypatch.setattr(Stepper, "update", torn)
    with pytest.raises(NotANumber):
        run_training(tiny_medgemma, data, output, steep, resume=True, resume_anyway=["lr"])
    monkeypatch.undo()
    result = run_training(tiny_medgemma, data, output, each, resume=True)
    assert result.record.updates == 10


def test_no_number_in_validation_is_said_with_its_rows(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    """An epoch of one update, whose own loss was a number: nobody can go on from what it made."""
    output, steep = tmp_path / "a", settings(lr=1e30, epochs=2, batch_size=8, accumulate=1, warmup=0.0)
    with pytest.raises(NotANumber, match=r"the validation loss is nan at epoch 1; row: val.jsonl:") as caught:
        run_training(tiny_medgemma, data, output, steep)
    assert "updates have spoilt the adapter" in str(caught.value.hint)
    assert not work_of(output).exists()


@pytest.mark.parametrize("keep", [2, 3])
def test_no_number_in_validation_goes_back_to_the_epoch_before(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """Also where a checkpoint was written after each update: none of that epoch is gone on from."""
    each = settings(checkpoint_every=0, keep=keep)
    run_training(tiny_medgemma, data, tmp_path / "whole", each)
    output, plain = tmp_path / "a", Trainer.validation_loss

    def spoilt(trainer: Trainer, epoch: int) -> float:
        if epoch == 2:
            raise NotANumber("the validation loss is nan")
        return plain(trainer, epoch)

    monkeypatch.setattr(Trainer, "validation_loss", spoilt)
    for resume in (False, True):
        with pytest.raises(NotANumber) as caught:
            run_training(tiny_medgemma, data, output, each, resume=resume)
        assert str(caught.value.hint).startswith("The run is saved in")
        [found] = [name for name in steps_of(output) if name[5:].isdecimal()]
        assert found == "step-000002"
    assert "step-000004.spoilt-2" in steps_of(output), "what was set aside is kept"
    monkeypatch.undo()
    run_training(tiny_medgemma, data, output, each, resume=True)
    assert contents(output) == contents(tmp_path / "whole")


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
