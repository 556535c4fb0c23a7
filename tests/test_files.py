"""Directories that are complete or absent."""

import errno
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors import SafetensorError

from mlx_medlora.atomic import atomic_directory, atomic_file, refuse_nonempty, refuse_unwritable
from mlx_medlora.errors import InputError, NoSpace
from mlx_medlora.files import read_json, sync_path


def test_a_finished_directory_appears_whole_with_the_users_mode(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with atomic_directory(tmp_path / "new") as work:
        (work / "a.txt").write_text("a")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a.txt").read_text() == "a"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(os.listdir(tmp_path)) == ["new", "plain"]


def test_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "new") as work:
        (work / "a.txt").write_text("a")
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_directories_above_a_failure_go_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    target = tmp_path / "a" / "b" / "c" / "target"
    with pytest.raises(ValueError, match="broken"), atomic_directory(target):
        raise ValueError("broken")
    refuse_unwritable(target)
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]
    with atomic_directory(target) as work:
        (work / "file").write_text("x")
    assert (target / "file").read_text() == "x"
    with pytest.raises(ValueError, match="broken"), atomic_directory(target.parent / "other" / "one"):
        raise ValueError("broken")
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"), atomic_directory(tmp_path / "full"):
        pass
    assert (tmp_path / "full" / "kept.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError(f"Error while serializing: I/O error: No space left (os error {errno.ENOSPC})"),
    ],
)
def test_a_full_disk_is_wrong_input_and_nothing_stays(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(NoSpace, match="no space left") as caught, atomic_directory(tmp_path / "new"):
        raise error
    assert caught.value.exit_code == 2
    assert os.listdir(tmp_path) == []


def test_another_failure_of_safetensors_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(SafetensorError), atomic_directory(tmp_path / "new"):
        raise SafetensorError("Error while serializing: I/O error: (os error 5)")


def test_what_a_killed_process_left_is_cleared_and_what_is_in_use_is_not(tmp_path: Path) -> None:
    """Names that only look like it, of other targets and of people, stay."""
    left = [".new.abcd_123.partial", ".new.zzzzzzzz.partial"]
    kept = [
        ".new.abc.partial",
        ".new.other.abcd1234.partial",
        "new.abcd1234.partial",
        ".old.abcd1234.partial",
    ]
    for name in left + kept:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text("a")
    (tmp_path / ".new.linked00.partial").symlink_to(tmp_path / kept[3])
    with atomic_directory(tmp_path / "new") as first:
        (first / "a.txt").write_text("first")
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, ".new.linked00.partial", first.name])
        with pytest.raises(RuntimeError), atomic_directory(tmp_path / "new"):
            assert first.is_dir(), "another process's, under way"
            raise RuntimeError
        assert (first / "a.txt").read_text() == "first"
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, ".new.linked00.partial", "new"])


def test_bad_json_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n "a": 1,\n}')
    with pytest.raises(InputError, match=r"a\.json:3: not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["x" * 250, "\u00e9" * 120])
def test_a_name_that_is_too_long_is_wrong_input(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="name too long"), atomic_directory(tmp_path / name):
        pass


def test_a_disk_s_own_directory_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty stick's: no rename replaces it."""
    (tmp_path / "stick").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "stick")
    with pytest.raises(InputError, match="cannot be replaced"):
        refuse_nonempty(tmp_path / "stick")


def test_a_file_is_replaced_in_one_move_or_stays(tmp_path: Path) -> None:
    target = tmp_path / "page [1].html"
    target.write_text("old")
    killed = (
        "import os, pathlib, mlx_medlora.atomic as f\n"
        f"with f.atomic_file(pathlib.Path({str(target)!r})) as partial:\n"
        "    partial.write_text('half')\n"
        "    os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    assert [path.read_text() for path in tmp_path.glob(".*.partial")] == ["half"]
    with pytest.raises(ValueError, match="broke"), atomic_file(target, private=True) as partial:
        assert stat.S_IMODE(partial.stat().st_mode) == 0o600  # before a word is written
        partial.write_text("new")
        raise ValueError("broke")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(target.name, "old")]
    with atomic_file(target, private=True) as partial:
        partial.write_text("new")
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("new", 0o600)
    with pytest.raises(InputError, match="Is a directory"), atomic_file(tmp_path) as partial:
        partial.write_text("new")


def test_a_partial_file_in_use_or_of_another_machine_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a shared disk: another container's process numbers mean nothing, nor may another host's locks."""
    target = tmp_path / "page.html"
    monkeypatch.setattr(psutil, "pid_exists", lambda number: False)
    with atomic_file(target) as first:
        first.write_text("first")
        with atomic_file(target) as second:
            second.write_text("second")
        assert first.exists(), "another process's, under way"
    assert target.read_text() == "first"
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with pytest.raises(SystemExit), atomic_file(target) as other:
        shutil.copyfile(other, tmp_path / other.name.replace("page.html", "kept.html"))
        raise SystemExit
    left = next(tmp_path.glob(".kept.html.*.partial"))
    monkeypatch.undo()
    with atomic_file(tmp_path / "kept.html") as partial:
        partial.write_text("new")
    assert left.exists()
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with atomic_file(tmp_path / "kept.html"):
        assert not left.exists(), "its own machine clears it"


def test_the_mode_of_a_file_is_the_users(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.html") as partial:
        partial.write_text("a")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.html").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_on_macos_the_drives_own_cache_is_flushed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsync(2) there: a drive may lose what it alone has; a disk that cannot be told so gets fsync."""
    calls: list[object] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, what: calls.append(what))
    sync_path(tmp_path)
    assert calls == [51]

    def refused(descriptor: int, what: int) -> int:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", refused)
    sync_path(tmp_path)
    assert calls == [51, "fsync"]
