"""The mark of credentialed data goes with the rows, the adapter, what is exported, and what is fused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from marked import MARK, NAME, TERMS, TINY, do

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cli.app import run
from mlx_medlora.lora.exchange import export_adapter
from mlx_medlora.lora.provenance import CONTAINS


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
