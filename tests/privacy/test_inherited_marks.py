"""The mark goes on to checkpoints, fused and converted models, and what is trained on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from marked import MARK, NAME, OTHER, TERMS, TINY, do

from mlx_medlora.cli.app import run
from mlx_medlora.lora.provenance import CONTAINS, read_provenance
from mlx_medlora.training.workplace import Workplace


def marks(manifest: Path) -> list[dict[str, object]]:
    found = json.loads(manifest.read_text())["trained_on"]
    assert isinstance(found, list)
    return found


@pytest.fixture(scope="module")
def fused(credentialed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with the marked adapter in it."""
    output = tmp_path_factory.mktemp("fused") / "model"
    do("fuse", *TINY, "--adapter", credentialed / "adapter", "--output", output)
    return output


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cases as a dataset without a mark."""
    data = tmp_path_factory.mktemp("plain") / "data"
    do("prepare", source / "cases.csv", "--images", source / "scans", "--output", data)
    return data


def train(model: Path, data: Path, output: Path, *more: object) -> None:
    steps = ("--epochs", 1, "--rank", 2, "--no-features")
    do("train", "--model", model, "--data", data, "--output", output, *steps, *more)


def test_the_last_adapter_of_a_run_carries_the_mark(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = credentialed / "adapter" / "checkpoints" / "last"
    assert json.loads((last / "training_data.json").read_text())["source"] == MARK
    assert (last / "training_data.json").stat().st_mode & 0o077 == 0
    do("export", last, tmp_path / "peft")
    assert f"Warning: this was trained on credentialed data ({NAME}" in capsys.readouterr().err
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "**Credentialed data**" in card
    assert "| train | 10 |" in card
    do("fuse", *TINY, "--adapter", last, "--output", tmp_path / "fused")
    assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
    assert marks(tmp_path / "fused" / "mlx_medlora.json") == [MARK]


def test_checkpoints_of_a_run_under_way_carry_the_mark(
    credentialed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every directory that has an adapter, with the best one of a checkpoint and of the run among them."""
    seen: dict[str, object] = {}

    def look(work: Workplace) -> None:
        for path in sorted(work.path.rglob("adapters.safetensors")):
            assert read_provenance(path.parent).splits["train"]["rows"] == 10
            seen[path.parent.relative_to(work.path).as_posix()] = read_provenance(path.parent).source
        complete(work)

    complete = Workplace.complete
    monkeypatch.setattr(Workplace, "complete", look)
    steps = ("--epochs", 2, "--lr", 1, "--keep", 20, "--batch-size", 2, "--checkpoint-every", 0)
    data = credentialed / "data"
    do("train", *TINY, "--data", data, "--output", tmp_path / "a", "--rank", 2, "--no-features", *steps)
    assert {".", "output", "output/checkpoints/last", "checkpoints/step-000001"} <= set(seen)
    assert any(name.endswith("/best") for name in seen)
    assert {str(mark) for mark in seen.values()} == {f"{NAME}, terms: {TERMS}"}


def test_importing_an_adapter_of_this_toolkit_keeps_its_mark(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do("import", credentialed / "adapter", tmp_path / "own", *TINY)
    assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
    assert json.loads((tmp_path / "own" / "training_data.json").read_text())["source"] == MARK
    do("export", tmp_path / "own", tmp_path / "peft")
    assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
    assert "| train | 10 |" in (tmp_path / "peft" / "README.md").read_text()


def test_converting_a_fused_model_keeps_the_mark_and_warns(
    fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"  # as fused before all marks were listed
    shutil.copytree(fused, old)
    manifest = json.loads((old / "mlx_medlora.json").read_text())
    del manifest["trained_on"]
    (old / "mlx_medlora.json").write_text(json.dumps(manifest))
    capsys.readouterr()
    for number, source in enumerate((fused, old, tmp_path / "1")):
        do("convert", source, tmp_path / str(number), "--dtype", "float32")
        assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
        assert marks(tmp_path / str(number) / "mlx_medlora.json") == [MARK]
        about = json.loads((tmp_path / str(number) / "mlx_medlora.json").read_text())["adapter"]
        assert tuple(about["data"]["contains"]) == CONTAINS
        assert (tmp_path / str(number)).stat().st_mode & 0o077 == 0
    do("convert", "tiny-medgemma", tmp_path / "plain")
    assert "Warning" not in capsys.readouterr().err
    assert "trained_on" not in json.loads((tmp_path / "plain" / "mlx_medlora.json").read_text())


def test_training_on_a_marked_base_inherits_its_mark(
    fused: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    do("convert", fused, tmp_path / "base", "--bits", 8)
    train(tmp_path / "base", plain, tmp_path / "adapter")
    record = json.loads((tmp_path / "adapter" / "run.json").read_text())
    assert (record["source"], record["others"]) == (None, [MARK])
    for place in (tmp_path / "adapter", tmp_path / "adapter" / "checkpoints" / "last"):
        capsys.readouterr()
        do("export", place, tmp_path / f"peft-{place.name}")
        assert f"credentialed data ({NAME}, terms: {TERMS})" in capsys.readouterr().err
        card = (tmp_path / f"peft-{place.name}" / "README.md").read_text()
        assert f"Also trained on, through the base or replayed rows: {NAME}" in card
    do("fuse", "--model", tmp_path / "base", "--adapter", tmp_path / "adapter", "--output", tmp_path / "two")
    assert f"credentialed data ({NAME}, terms: {TERMS})" in capsys.readouterr().err
    assert marks(tmp_path / "two" / "mlx_medlora.json") == [MARK]


def test_several_sources_are_all_named(
    fused: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(plain, tmp_path / "data")
    path = tmp_path / "data" / "dataset_stats.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_source": OTHER}))
    train(fused, tmp_path / "data", tmp_path / "adapter")
    both = "(eICU; " + f"{NAME}, terms: {TERMS})"
    capsys.readouterr()
    do("export", tmp_path / "adapter", tmp_path / "peft")
    assert both in capsys.readouterr().err
    do("import", tmp_path / "peft", tmp_path / "back", "--model", fused)
    assert both in capsys.readouterr().err
    do("fuse", "--model", fused, "--adapter", tmp_path / "back", "--output", tmp_path / "fused")
    assert both in capsys.readouterr().err
    assert marks(tmp_path / "fused" / "mlx_medlora.json") == [OTHER, MARK]
    do("convert", tmp_path / "fused", tmp_path / "again")
    assert both in capsys.readouterr().err


def test_a_stranger_s_adapter_on_a_marked_base_takes_its_mark(
    fused: Path, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither exported, imported nor fused does it lose what the base was trained on."""
    train(fused, plain, tmp_path / "adapter")
    do("export", tmp_path / "adapter", tmp_path / "peft")
    (tmp_path / "peft" / "training_data.json").unlink()
    capsys.readouterr()
    do("import", tmp_path / "peft", tmp_path / "own", "--model", fused)
    assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
    do("fuse", "--model", fused, "--adapter", tmp_path / "peft", "--output", tmp_path / "two")
    assert "Warning: this was trained on credentialed data" in capsys.readouterr().err
    assert marks(tmp_path / "two" / "mlx_medlora.json") == [MARK]


def test_replayed_rows_bring_their_mark_along(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    rows = [{"instruction": f"What is {n} and {n}?", "output": f"It is {2 * n}."} for n in range(9)]
    (tmp_path / "rows" / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows" / "dataset_stats.json").write_text(json.dumps({"data_source": OTHER}))
    tiny = Path("tiny-medgemma")
    train(tiny, plain, tmp_path / "adapter", "--replay", tmp_path / "rows" / "general.jsonl")
    assert json.loads((tmp_path / "adapter" / "run.json").read_text())["others"] == [OTHER]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"trained_on": 7},
        {"trained_on": [{"name": "a\x1b[2J"}]},
        {"trained_on": [7]},
        {"adapter": []},
        {"adapter": 3},
        {"adapter": {"data": [1]}},
        {"adapter": {"data": {"source": {"credentialed": True}}}},
    ],
)
def test_a_damaged_mark_of_a_base_is_refused(
    spoilt: dict[str, object],
    fused: Path,
    credentialed: Path,
    plain: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(fused, tmp_path / "base")
    path = tmp_path / "base" / "mlx_medlora.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | spoilt))
    for command in (
        ["convert", tmp_path / "base", tmp_path / "out"],
        ["train", "--model", tmp_path / "base", "--data", plain, "--output", tmp_path / "out"],
    ):
        capsys.readouterr()
        assert run([str(word) for word in command]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert "\x1b" not in said
        assert not (tmp_path / "out").exists()
