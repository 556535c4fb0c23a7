"""What lies in a run's directory is lost by no other run, and by no read that fails."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from ongoing import SETTINGS, at, contents, interrupted, settings, steps_of, work_of

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.training import workplace
from mlx_medlora.training.events import Event, Resumed, Step
from mlx_medlora.training.run import run_training
from mlx_medlora.training.workplace import Workplace, set_aside


def test_another_runs_checkpoints_stay_beside_a_finished_adapter_of_that_name(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    output, other = tmp_path / "a", tmp_path / "other"
    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)
    interrupted(tiny_medgemma, data, output)
    run_training(tiny_medgemma, data, other, settings(epochs=1))
    shutil.copytree(other, output)
    with pytest.raises(InputError, match=r"is complete, and .*\.a\.run holds another one") as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    assert f"move {output} away" in str(caught.value.hint)
    assert steps_of(output) == ["step-000003", "step-000004", "step-000005"]
    shutil.rmtree(output)
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    assert contents(output) == contents(tmp_path / "whole")


def test_a_run_that_goes_on_beside_a_finished_adapter_is_left_alone(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    output, other = tmp_path / "a", tmp_path / "other"
    run_training(tiny_medgemma, data, other, settings(epochs=1))

    def second() -> None:
        shutil.copytree(other, output)
        with pytest.raises(InputError, match=f"another run writes here: process {os.getpid()}"):
            Workplace.open(output, resume=True)
        assert steps_of(output)
        shutil.rmtree(output)

    run_training(tiny_medgemma, data, output, SETTINGS, listeners=[at(Step, 3, second)])


@pytest.mark.parametrize("moment", ["rename", "remove"])
def test_what_a_kill_leaves_after_the_last_rename_is_removed(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Just after it, or while the run's own directory is being removed."""
    output = tmp_path / "a"

    def killed(work: Workplace) -> None:
        if moment == "remove":
            shutil.rmtree(work.checkpoints)
            (work.path / "timings.jsonl").unlink()
        os.close(work.lock)

    monkeypatch.setattr(Workplace, "_remove", killed)
    run_training(tiny_medgemma, data, output, SETTINGS)
    monkeypatch.undo()
    assert work_of(output).is_dir()
    with pytest.raises(InputError, match="this run is complete: there is nothing to resume"):
        run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    assert not work_of(output).exists()


@pytest.mark.parametrize("name", ["state.json", "timings.json", "random.json"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE])
def test_a_read_that_fails_says_nothing_of_the_checkpoint(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    output, read = tmp_path / "a", Path.open
    interrupted(tiny_medgemma, data, output)

    def flaky(self: Path, *more: object, **named: object) -> object:
        if self.name == name:
            raise OSError(number, os.strerror(number), str(self))
        return read(self, *more, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", flaky)
    monkeypatch.setattr(Path, "read_bytes", lambda self: flaky(self, "rb").read())  # type: ignore[attr-defined]
    with pytest.raises((OSError, MedloraError)) as caught:
        run_training(tiny_medgemma, data, output, SETTINGS, resume=True)
    monkeypatch.undo()
    if number == errno.EMFILE:
        assert getattr(caught.value, "errno", None) == number  # the command line has words for it
    else:
        assert isinstance(caught.value, MedloraError)
        assert f"step-000005/{name}: cannot be read: Stale file handle" in str(caught.value)
        assert caught.value.exit_code == 1
    assert steps_of(output) == ["step-000003", "step-000004", "step-000005"]
    told: list[Event] = []
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True, listeners=[told.append])
    assert next(event for event in told if isinstance(event, Resumed)) == Resumed(5, 6)


def test_a_damaged_checkpoint_is_kept_under_another_name(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a"
    interrupted(tiny_medgemma, data, output)
    newest = work_of(output) / "checkpoints" / "step-000005"
    (newest / "state.json").unlink()
    (newest / "mine.txt").touch()
    seen: list[str] = []
    told: list[Event] = []
    look = at(Step, 6, lambda: seen.extend(steps_of(output)))
    run_training(tiny_medgemma, data, output, SETTINGS, resume=True, listeners=[look, told.append])
    assert "step-000005.damaged" in seen
    resumed = next(event for event in told if isinstance(event, Resumed))
    assert resumed.remarks[0].endswith("damaged or of another release; kept as step-000005.damaged")


def test_damaged_checkpoints_of_one_step_do_not_meet(tmp_path: Path) -> None:
    for name in ("step-000005.damaged", "step-000005.damaged-2", "step-000005"):
        (tmp_path / name).mkdir()
    assert set_aside(tmp_path / "step-000005").name == "step-000005.damaged-3"
    assert workplace.newest_first(tmp_path) == []
