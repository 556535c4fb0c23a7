"""A tokenizer or an image processor that is another than when the run began."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ongoing import interrupted, settings, steps_of, work_of

from mlx_medlora.errors import InputError
from mlx_medlora.training.events import Step
from mlx_medlora.training.run import run_training

Change = Callable[[Path], None]


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held, ensure_ascii=False))


def half_the_merges(model: Path) -> None:
    def change(held: dict[str, Any]) -> None:
        merges = held["model"]["merges"]
        del merges[len(merges) // 2 :]

    edit(model / "tokenizer.json", change)


def another_mean(model: Path) -> None:
    def change(held: dict[str, Any]) -> None:
        held.get("image_processor", held)["image_mean"] = [0.1, 0.1, 0.1]

    for name in ("preprocessor_config.json", "processor_config.json"):
        if (model / name).exists():
            edit(model / name, change)


@pytest.fixture
def model(tiny_medgemma: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_medgemma, tmp_path / "model"))


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (half_the_merges, "tokenizer", r"tokenizer or chat template \(other tokens in train, val\)"),
        (another_mean, "processor", r"processor \(other pixels of the same image\)"),
    ],
)
def test_it_is_refused_by_name_and_may_be_accepted(
    model: Path, data: Path, tmp_path: Path, change: Change, name: str, said: str
) -> None:
    output = tmp_path / "a"
    interrupted(model, data, output)
    change(model)
    with pytest.raises(InputError, match=f"changed since the checkpoint: {said}$") as caught:
        run_training(model, data, output, settings(), resume=True)
    assert f"--resume-anyway {name}" in str(caught.value.hint)
    assert steps_of(output) == ["step-000003", "step-000004", "step-000005"]
    told: list[int] = []
    run_training(
        model,
        data,
        output,
        settings(),
        resume=True,
        resume_anyway=[name],
        listeners=[lambda event: told.append(event.step) if isinstance(event, Step) else None],
    )
    assert told == ([6, 7] if name == "tokenizer" else [6])  # other lengths, another order: the epoch anew


def test_the_same_words_written_otherwise_are_no_change(model: Path, data: Path, tmp_path: Path) -> None:
    interrupted(model, data, tmp_path / "a")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        edit(model / name, lambda held: None)
    run_training(model, data, tmp_path / "a", settings(), resume=True)


def test_rows_that_changed_are_data_and_not_a_tokenizer(model: Path, data: Path, tmp_path: Path) -> None:
    interrupted(model, data, tmp_path / "a")
    rows = (data / "train.jsonl").read_text()
    (data / "train.jsonl").write_text(rows.replace("film is normal", "film is odd", 1))
    with pytest.raises(InputError, match=r"changed since the checkpoint: data \(train\)$"):
        run_training(model, data, tmp_path / "a", settings(), resume=True)
    run_training(model, data, tmp_path / "a", settings(), resume=True, resume_anyway=["data"])


def test_a_checkpoint_of_an_older_release_says_nothing_of_them(
    model: Path, data: Path, tmp_path: Path
) -> None:
    interrupted(model, data, tmp_path / "a")
    for path in work_of(tmp_path / "a").rglob("state.json"):

        def older(held: dict[str, Any]) -> None:
            del held["identity"]["tokenizer"], held["identity"]["processor"], held["course"], held["trained"]

        edit(path, older)
    another_mean(model)
    run_training(model, data, tmp_path / "a", settings(), resume=True)
