"""Machines that fail: full and read-only disks, files that go, clocks that jump, tight limits."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from killable import ROOT, Ended, Forked, contents

from mlx_medlora.errors import InputError, MedloraError, OutOfMemory
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.gemma.convert import convert
from mlx_medlora.training.events import Epoch, Event, Step
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

TINY = ROOT / "mlx_medlora" / "assets" / "tiny-medgemma"
REFERENCE = ROOT / "adapters" / "reference"
SETTINGS = TrainSettings(epochs=2, batch_size=4, rank=2, checkpoint_every=0, lr=1e-3)
IN_MEMORY = FeatureSettings(memory=True)


@contextmanager
def disk(place: Path, options: str) -> Iterator[Path]:
    """A disk of its own in memory, where this process may mount one."""
    place.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a disk can be mounted by root alone, and not in every container")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> Path:
    """Leave no room on the disk of `place`."""
    file = place / "filler"
    with suppress(OSError), file.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return file


WRITERS: dict[str, list[str | Path]] = {
    "convert": ["convert", TINY, "OUT"],
    "prepare": ["prepare", "--phantoms", "60", "--output", "OUT"],
    "fuse": ["fuse", "--model", TINY, "--adapter", REFERENCE, "--output", "OUT"],
    "export": ["export", REFERENCE, "OUT"],
    "import": ["import", ROOT / "adapters" / "reference-peft", "OUT", "--model", TINY],
    "eval": ["eval", "--model", TINY, "--data", "DATA", "--no-features", "--output", "OUT"],
    "train": [
        "train",
        "--model",
        TINY,
        "--data",
        "DATA",
        "--no-features",
        "--output",
        "OUT",
        "--epochs",
        "1",
    ],
}


def arguments(command: str, output: Path, data: Path) -> list[str | Path]:
    return [{"OUT": output, "DATA": data}.get(str(part), part) for part in WRITERS[command]]


def assert_said(ended: Ended, status: int, *words: str) -> None:
    """Ended with `status`, for people: no traceback, no internal error, a hint last."""
    assert ended.status == status, ended.said
    assert "Traceback" not in ended.said
    assert "internal error" not in ended.said
    for word in words:
        assert word in ended.said


@pytest.mark.parametrize("command", WRITERS)
def test_a_full_disk(command: str, forked: Forked, small: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=64k") as place:
        (place / "filler").write_bytes(bytes(60_000))
        ended = forked(*arguments(command, place / "out", small))
        assert_said(ended, 2, "no space", "Hint: Free some space")
        assert [path.name for path in place.iterdir()] == ["filler"]


@pytest.mark.parametrize("command", ["convert", "prepare", "train"])
def test_a_file_larger_than_allowed(command: str, forked: Forked, small: Path, tmp_path: Path) -> None:
    """As FAT32 beyond 4 GiB; also what stands for a full disk where none can be mounted."""
    ended = forked(*arguments(command, tmp_path / "out", small), limits={"RLIMIT_FSIZE": 1000})
    assert_said(ended, 2, "a file grew larger than the disk", "nothing was kept", "Hint: Free some space")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", WRITERS)
def test_a_read_only_directory(command: str, forked: Forked, small: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=200m,ro") as place:
        ended = forked(*arguments(command, place / "out", small))
        assert_said(ended, 2, "cannot write: Read-only file system", str(place))
        assert "answering" not in ended.said, "said before the work"


def test_a_dataset_on_a_read_only_disk_is_used(forked: Forked, small: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", "size=20m") as place:
        shutil.copytree(small, place / "data")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        ended = forked("eval", "--model", TINY, "--data", place / "data", "--output", tmp_path / "out")
        assert_said(ended, 0, "stay in memory", "Read-only file system")


def at(kind: type[Event], number: int, act: Callable[[], object]) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, kind) and (event.step if isinstance(event, Step) else event.epoch) == number:  # type: ignore[attr-defined]
            act()

    return listen


def train(data: Path, output: Path, **more: Any) -> None:
    settings = more.pop("settings", SETTINGS)
    run_training(TINY, data, output, settings, features=IN_MEMORY, **more)


def adapter_of(output: Path) -> dict[str, str]:
    found = contents(output)
    return {name: digest for name, digest in found.items() if name not in ("timings.jsonl", "run.json")}


def test_a_disk_that_fills_while_training(small: Path, tmp_path: Path) -> None:
    """Paused with status 1 and the last checkpoint; goes on to the same bytes when there is room."""
    train(small, tmp_path / "whole")
    with disk(tmp_path / "disk", "size=4m") as place:
        output = place / "out"
        with pytest.raises(MedloraError, match="no space left on the disk while training") as caught:
            train(small, output, listeners=[at(Step, 3, lambda: fill(place))])
        assert caught.value.exit_code == 1
        assert "the last checkpoint is whole" in str(caught.value)
        assert "continue with" in str(caught.value.hint)
        (place / "filler").unlink()
        train(small, output, resume=True)
        assert adapter_of(output) == adapter_of(tmp_path / "whole")


@pytest.fixture
def own(small: Path, tmp_path: Path) -> Path:
    """A copy of the dataset, to take files from."""
    return Path(shutil.copytree(small, tmp_path / "data"))


def test_images_and_the_model_may_go_once_they_are_read(own: Path, tmp_path: Path) -> None:
    train(own, tmp_path / "whole")
    model = Path(shutil.copytree(TINY, tmp_path / "model"))

    def remove() -> None:
        shutil.rmtree(own / "images")
        (model / "model.safetensors").unlink()

    output = tmp_path / "out"
    run_training(model, own, output, SETTINGS, features=IN_MEMORY, listeners=[at(Step, 1, remove)])
    weights = "adapters.safetensors"
    assert adapter_of(output)[weights] == adapter_of(tmp_path / "whole")[weights]


def test_an_image_that_goes_while_its_tower_is_trained(own: Path, tmp_path: Path) -> None:
    """It is named, the run is saved, and goes on to the same bytes when the image is back."""
    settings = SETTINGS.model_copy(update={"vision": True})
    train(own, tmp_path / "whole", settings=settings)
    hidden = tmp_path / "hidden"

    def remove() -> None:
        (own / "images").rename(hidden)

    with pytest.raises(InputError, match=r"\.png: no such image file") as caught:
        train(own, tmp_path / "out", settings=settings, listeners=[at(Step, 2, remove)])
    assert "The run is saved in" in str(caught.value.hint)
    hidden.rename(own / "images")
    train(own, tmp_path / "out", settings=settings, resume=True)
    assert adapter_of(tmp_path / "out") == adapter_of(tmp_path / "whole")


def test_a_split_that_goes_before_it_is_validated(own: Path, tmp_path: Path) -> None:
    from mlx_medlora.cli.train import validation_accuracy

    def remove() -> None:
        (own / "val.jsonl").rename(tmp_path / "val.jsonl")

    with pytest.raises(InputError, match="the dataset has no split 'val'") as caught:
        train(own, tmp_path / "out", validate=validation_accuracy, listeners=[at(Epoch, 1, remove)])
    assert "The run is saved in" in str(caught.value.hint)
    (tmp_path / "val.jsonl").rename(own / "val.jsonl")
    train(own, tmp_path / "out", validate=validation_accuracy, resume=True)


def test_a_model_that_goes_before_it_is_read(forked: Forked, small: Path, tmp_path: Path) -> None:
    """Between finding it and reading its weights."""
    gone = (
        "import mlx_medlora.gemma.weights as w, pathlib\n"
        "read = w._read\n"
        f"def late(*a):\n    pathlib.Path({str(tmp_path / 'model' / 'model.safetensors')!r}).unlink()\n"
        "    return read(*a)\n"
        "w._read = late"
    )
    shutil.copytree(TINY, tmp_path / "model")
    ended = forked(
        *("eval", "--model", tmp_path / "model", "--data", small, "--output", tmp_path / "out"), before=gone
    )
    assert_said(ended, 2, "model.safetensors: No such file or directory")


CLOCK = """
import itertools, time
now, back = time.time(), itertools.count()
time.time = lambda: now - 3600 * next(back)
"""


def test_a_clock_that_is_set_back(forked: Forked, own: Path, tmp_path: Path) -> None:
    """An hour with each look at it, and files from the future in the store of features."""
    options = ["--epochs", "2", "--batch-size", "4", "--rank", "2", "--checkpoint-every", "0"]
    common = ["train", "--model", TINY, "--data", own, *options]
    assert_said(forked(*common, "--output", tmp_path / "whole"), 0)
    for file in (own / ".features").rglob("*"):
        os.utime(file, (4e9, 4e9))
    ended = forked(*common, "--output", tmp_path / "out", before=CLOCK)
    assert_said(ended, 0)
    assert adapter_of(tmp_path / "out") == adapter_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in 75 files."""
    directory = tmp_path_factory.mktemp("shards") / "model"
    convert(TINY, directory, dtype="float32", shard_bytes=20_000)
    assert len(list(directory.glob("*.safetensors"))) > 64
    return directory


@pytest.mark.parametrize("command", ["convert", "fuse", "eval", "train"])
def test_sixty_four_open_files(
    command: str, forked: Forked, many_shards: Path, own: Path, tmp_path: Path
) -> None:
    line = [many_shards if part == TINY else part for part in arguments(command, tmp_path / "out", own)]
    if command == "convert":
        line += ["--bits", "4"]
    assert_said(forked(*line, limits={"RLIMIT_NOFILE": 64}), 0)


def test_too_few_open_files_for_anything(forked: Forked, tmp_path: Path) -> None:
    ended = forked("convert", TINY, tmp_path / "out", limits={"RLIMIT_NOFILE": 6})
    assert_said(ended, 1, "too many open files", "ulimit -n 1024")
    assert list(tmp_path.iterdir()) == []


def test_a_tight_limit_on_memory_is_said_at_the_start(small: Path, tmp_path: Path) -> None:
    """A fresh process: below this, OpenBLAS asks for memory for ever as it loads."""
    line = [str(part) for part in arguments("train", tmp_path / "out", small)]
    ended = subprocess.run(
        [sys.executable, "-m", "mlx_medlora.cli.app", *line],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    )
    assert ended.returncode == 1
    assert "this process may use 1.00 GiB of address space" in ended.stderr
    assert "ulimit -v unlimited" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_beyond_a_limit_on_memory_names_the_setting_to_lower(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it allocates: MLX's CPU backend dies of a refused allocation."""
    from mlx_medlora.training import relief

    def limit(kind: int) -> tuple[int, int]:
        assert kind == resource.RLIMIT_AS
        size = psutil.Process().memory_info().vms + (1 << 20)
        return size, size

    monkeypatch.setattr(relief.resource, "getrlimit", limit)
    with pytest.raises(OutOfMemory, match=r"may allocate 0.00 GiB more \(ulimit -v\)") as caught:
        train(small, tmp_path / "out")
    assert "--grad-checkpoint on takes" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_a_run_beyond_the_machine_s_memory_is_warned_of(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_medlora.training import relief
    from mlx_medlora.training.events import Notice

    monkeypatch.setattr(relief, "usable_memory", lambda: 1 << 20)
    told: list[Event] = []
    train(small, tmp_path / "out", listeners=[told.append])
    said = [event.text for event in told if isinstance(event, Notice)]
    assert "this machine has 0.00 GiB for training. By `mlx-medlora plan` it takes" in said[0]
