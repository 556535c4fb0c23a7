"""The mark of credentialed data goes with the rows, the adapter, what is exported, and what is fused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cli.app import run
from mlx_medlora.lora.exchange import export_adapter
from mlx_medlora.lora.provenance import CONTAINS, read_provenance
from mlx_medlora.training.workplace import Workplace

TINY = ("--model", "tiny-medgemma")
NAME, TERMS = "PhysioNet MIMIC-CXR", "https://physionet.org/content/mimic-cxr/"
MARK = {"name": NAME, "credentialed": True, "terms": TERMS}


def do(*arguments: object) -> None:
    assert run([str(word) for word in arguments]) == 0


@pytest.fixture(scope="module")
def credentialed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A marked dataset `data`, and an `adapter` trained on it."""
    root = tmp_path_factory.mktemp("credentialed")
    table = ("prepare", source / "cases.csv", "--images", source / "scans", "--output", root / "data")
    do(*table, "--credentialed", NAME, "--terms", TERMS)
    steps = ("--epochs", 1, "--rank", 2, "--no-features")
    do("train", *TINY, "--data", root / "data", "--output", root / "adapter", *steps)
    return root


def test_the_mark_stands_in_statistics_and_readme(credentialed: Path) -> None:
    found = Dataset.open(credentialed / "data").source()
    assert found is not None
    assert found.model_dump() == MARK
    readme = (credentialed / "data" / "README.md").read_text()
    assert f"{NAME}, terms: {TERMS}; use and derivatives are bound by its agreement" in readme


def test_rows_taken_from_a_marked_dataset_stay_marked(credentialed: Path, tmp_path: Path) -> None:
    data = credentialed / "data"
    do("prepare", data / "train.jsonl", "--images", data, "--output", tmp_path / "part")
    assert json.loads((tmp_path / "part/dataset_stats.json").read_text())["data_source"] == MARK


def test_another_mark_does_not_take_the_place_of_the_first(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = credentialed / "data"
    command = ["prepare", data / "train.jsonl", "--images", data, "--output", tmp_path / "part"]
    assert run([str(word) for word in (*command, "--credentialed", "eICU")]) == 2
    assert f"marked as credentialed data already ({NAME}, terms: {TERMS})" in capsys.readouterr().err
    assert not (tmp_path / "part").exists()
    do(*command, "--credentialed", NAME, "--terms", TERMS)


def test_the_run_says_what_it_holds_and_whose_data_it_was(credentialed: Path) -> None:
    record = json.loads((credentialed / "adapter" / "run.json").read_text())
    assert record["source"] == MARK
    assert tuple(record["contains"]) == CONTAINS
    written = [path.read_bytes() for path in (credentialed / "adapter").rglob("*") if path.is_file()]
    for secret in (b"Clear lungs", b"Rest", b"c11"):  # the first line of `contains` is true
        assert not any(secret in content for content in written)


def test_export_import_and_fuse_warn_and_carry_the_mark(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = credentialed / "adapter"
    warning = f"Warning: this was trained on credentialed data ({NAME}, terms: {TERMS})"
    do("export", adapter, tmp_path / "peft")
    assert warning in capsys.readouterr().err
    card = (tmp_path / "peft" / "README.md").read_text()
    assert f"Source: {NAME}, terms: {TERMS}" in card
    assert "**Credentialed data**: this was trained on credentialed data" in card
    assert all(f"\n- {line}\n" in card for line in CONTAINS)
    do("import", tmp_path / "peft", tmp_path / "back", *TINY)
    assert warning in capsys.readouterr().err
    do("export", tmp_path / "back", tmp_path / "again")
    assert warning in capsys.readouterr().err
    assert "| train | 10 |" in (tmp_path / "again" / "README.md").read_text()
    for place in (adapter, tmp_path / "peft", tmp_path / "back"):
        do("fuse", *TINY, "--adapter", place, "--output", tmp_path / f"fused-{place.name}")
        assert warning in capsys.readouterr().err
        manifest = json.loads((tmp_path / f"fused-{place.name}" / "mlx_medlora.json").read_text())
        assert manifest["adapter"]["data"]["source"] == MARK
        assert tuple(manifest["adapter"]["data"]["contains"]) == CONTAINS


def test_an_unmarked_adapter_is_exported_without_a_warning(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(credentialed / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "run.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"source": None}))
    do("export", tmp_path / "adapter", tmp_path / "peft")
    assert "Warning" not in capsys.readouterr().err
    card = (tmp_path / "peft" / "README.md").read_text()
    assert "Credentialed" not in card
    assert f"\n- {CONTAINS[0]}\n" in card


@pytest.mark.parametrize("mark", [7, {"name": "x\ny"}, {"name": "a\x1b[2J"}, {"credentialed": True}, [1]])
def test_a_damaged_mark_is_refused_not_overlooked(
    mark: object, credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(credentialed / "adapter", tmp_path / "adapter")
    path = tmp_path / "adapter" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": mark}))
    assert run(["export", str(tmp_path / "adapter"), str(tmp_path / "peft")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {path}: ")
    assert "\x1b" not in said
    assert not (tmp_path / "peft").exists()


def test_a_run_that_is_no_object_is_refused_too(
    credentialed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list, or a directory of that name: the mark that stood there would be lost without a word."""
    path = tmp_path / "adapter" / "run.json"
    shutil.copytree(credentialed / "adapter", path.parent)
    path.write_text("[]")
    assert run(["export", str(path.parent), str(tmp_path / "peft")]) == 2
    path.unlink()
    path.mkdir()
    assert run(["export", str(path.parent), str(tmp_path / "peft")]) == 2
    said = capsys.readouterr().err
    assert "run.json:1: expected a JSON object" in said
    assert "run.json: is a directory" in said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["CASES", "--terms", TERMS], "--terms goes with --credentialed"),
        (["--phantoms", "9", "--credentialed", NAME], "--credentialed goes with CASES"),
        (["CASES", "--credentialed", " "], "name: String should have at least 1 character"),
        (["CASES", "--credentialed", "a\nb"], "name: String should match"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: list[str], message: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(source / "cases.csv") if word == "CASES" else word for word in flags]
    assert run(["prepare", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_tool_has_no_mark(tmp_path: Path, credentialed: Path) -> None:
    export_adapter(credentialed / "adapter", tmp_path / "peft")
    (tmp_path / "peft" / "training_data.json").unlink()
    do("import", tmp_path / "peft", tmp_path / "native", *TINY)
    assert not (tmp_path / "native" / "training_data.json").exists()


OTHER = {"name": "eICU", "credentialed": True, "terms": None}


def marks(manifest: Path) -> list[dict[str, object]]:
    found = json.loads(manifest.read_text())["trained_on"]
    assert isinstance(found, list)
    return found


@pytest.fixture(scope="module")
def fused(credentialed: Path) -> Path:
    """The embedded model with the marked adapter in it."""
    do("fuse", *TINY, "--adapter", credentialed / "adapter", "--output", credentialed / "fused")
    return credentialed / "fused"


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
