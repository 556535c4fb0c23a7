"""`report`, `model-card`, and the page that `eval` writes, on the embedded model."""

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.errors import NoSpace

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, dict[str, Any], str]]


FIGURES = {"scorecard.json", "predictions.jsonl", "heatmaps.json"}


@pytest.fixture
def runs(place: list[str | Path], tmp_path: Path, call: Call) -> dict[str, Path]:
    tuned = [*place, "--adapter", ROOT / "adapters" / "reference"]
    for name, arguments in {"base": place, "tuned": tuned}.items():
        assert call("eval", *arguments, "--output", tmp_path / name)[0] == 0
    return {name: tmp_path / name for name in ("base", "tuned")}


def test_eval_writes_the_page(
    runs: dict[str, Path], place: list[str | Path], tmp_path: Path, call: Call
) -> None:
    page = runs["tuned"] / "report.html"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    html = page.read_text()
    card = json.loads((runs["tuned"] / "scorecard.json").read_text())
    assert card["about"]["versions"]["mlx-medlora"] in html
    assert html.count("data:image/webp") == 8
    assert "The embedded model is a toy" in html
    assert {path.name for path in runs["tuned"].iterdir()} == {
        *("scorecard.json", "predictions.jsonl", "heatmaps.json", "report.html"),
        *("health.json", "forgetting.json"),
    }
    assert call("eval", *place, "--no-report", "--output", tmp_path / "bare")[0] == 0
    assert {path.name for path in (tmp_path / "bare").iterdir()} == FIGURES


def test_the_answers_are_kept_where_the_page_fails(
    place: list[str | Path], tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a strange figure")

    monkeypatch.setattr("mlx_medlora.report.page.render", fail)
    status, _, said = call("eval", *place, "--output", tmp_path / "run")
    assert status == 0
    assert "report.html was not written (ValueError)" in said  # its message may hold a case's text
    assert {path.name for path in (tmp_path / "run").iterdir()} == FIGURES

    def full(*_: object, **__: object) -> None:
        raise NoSpace("no space left")

    monkeypatch.setattr("mlx_medlora.report.page.render", full)
    assert call("eval", *place, "--output", tmp_path / "full")[0] == 2
    assert not (tmp_path / "full").exists()


def test_report(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    before = (runs["tuned"] / "report.html").read_bytes()
    status, shown, _ = call("report", runs["tuned"])
    assert status == 0
    assert shown == {"output": str(runs["tuned"] / "report.html"), "bytes": len(before), "cases": 8}
    assert (runs["tuned"] / "report.html").read_bytes() == before
    pages = {}
    for name, flags in {
        "compared": ["--compare", runs["base"]],
        "bare": ["--no-images"],
        "redacted": ["--redact"],
    }.items():
        status, shown, _ = call("report", runs["tuned"], *flags, "--output", tmp_path / f"{name}.html")
        assert status == 0
        pages[name] = (tmp_path / f"{name}.html").read_text()
    assert "Compared with other runs" in pages["compared"]
    assert re.search(r"tuned is better than base|cannot be told apart", pages["compared"])
    assert "Compared with other runs" not in pages["bare"]
    assert "data:image/webp" not in pages["bare"] + pages["redacted"]
    assert 'id="case-data"' in pages["bare"]
    assert 'id="case-data"' not in pages["redacted"]
    assert shown["cases"] == 0


def test_wrong_input_is_named(
    runs: dict[str, Path], phantom_dataset: Path, tmp_path: Path, call: Call
) -> None:
    (tmp_path / "file").write_text("")
    for arguments, wanted in [
        ([tmp_path / "gone"], "no such run directory"),
        ([phantom_dataset], "not an evaluation's directory"),
        ([runs["base"], "--data", tmp_path / "gone"], "no such dataset directory"),
        ([runs["base"], "--data", ROOT / "lora_training"], "is not the one that"),
        ([runs["base"], "--compare", tmp_path / "gone"], "no such run directory"),
        ([runs["base"], "--output", tmp_path / "file" / "a.html"], "cannot write"),
    ]:
        status, _, said = call("report", *arguments)
        assert status == 2
        assert wanted in said
    status, _, said = call("model-card", runs["base"], "--output", tmp_path / "file" / "README.md")
    assert status == 2
    assert "cannot write" in said


def test_model_card(runs: dict[str, Path], tmp_path: Path, call: Call) -> None:
    for name in ("base", "tuned"):
        status, shown, _ = call("model-card", runs[name], "--output", tmp_path / "new" / "README.md")
        assert status == 0
        assert shown == {"output": str(tmp_path / "new" / "README.md")}
        text = (tmp_path / "new" / "README.md").read_text()
        assert "model-index:" in text
        assert ("## Training data" in text) == (name == "tuned")


def test_model_card_of_a_peft_adapter(place: list[str | Path], tmp_path: Path, call: Call) -> None:
    adapter = shutil.copytree(ROOT / "adapters" / "reference-peft", tmp_path / "peft")
    run, card = tmp_path / "run", tmp_path / "README.md"
    arguments = [*place, "--adapter", adapter, "--no-forgetting", "--no-report", "--output", run]
    assert call("eval", *arguments)[0] == 0
    status, _, said = call("model-card", run, "--output", card)
    assert (status, said) == (0, "")
    text = card.read_text()
    for wanted in ("| rank, alpha, dropout | 16, 32, 0.1 |", "model-index:", "### Errors not found"):
        assert wanted in text
    assert "case_" not in text
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "not those that were evaluated" in call("model-card", run, "--output", card)[2]


@pytest.mark.parametrize("answered", ["fused", "PEFT on fused"])
def test_the_card_names_credentialed_data_within_the_model(
    place: list[str | Path], tmp_path: Path, call: Call, answered: str
) -> None:
    """An adapter of theirs was fused into the model: its mark stands on every card of it."""
    model = shutil.copytree(ROOT / "mlx_medlora" / "assets" / "tiny-medgemma", tmp_path / "fused")
    mark = {"name": "MIMIC-CXR", "credentialed": True, "terms": "https://example.org/terms"}
    (model / "mlx_medlora.json").write_text(json.dumps({"adapter": {"data": {"source": mark}}}))
    arguments = ["--model", model, *place[2:], "--no-report", "--output", tmp_path / "run"]
    if answered != "fused":
        arguments += ["--adapter", ROOT / "adapters" / "reference-peft", "--no-forgetting"]
    assert call("eval", *arguments)[0] == 0
    model.rename(tmp_path / "elsewhere")  # what it was stands in the run
    assert call("model-card", tmp_path / "run", "--output", tmp_path / "README.md")[0] == 0
    text = (tmp_path / "README.md").read_text()
    assert "**Credentialed data**: this was trained on credentialed data (MIMIC-CXR, terms: " in text
    assert text.index("## Training data") < text.index("## Evaluation")


def test_an_older_run_is_looked_up_or_warned_of(place: list[str | Path], tmp_path: Path, call: Call) -> None:
    model = shutil.copytree(ROOT / "mlx_medlora" / "assets" / "tiny-medgemma", tmp_path / "fused")
    run, card = tmp_path / "run", tmp_path / "README.md"
    assert call("eval", "--model", model, *place[2:], "--no-report", "--output", run)[0] == 0
    found = json.loads((run / "scorecard.json").read_text())
    assert found["about"].pop("model_trained_on") == []
    (run / "scorecard.json").write_text(json.dumps(found))
    mark = {"name": "MIMIC-CXR", "credentialed": True, "terms": None}
    (model / "mlx_medlora.json").write_text(json.dumps({"adapter": {"data": {"source": mark}}}))
    assert call("model-card", run, "--output", card)[2] == ""
    assert "**Credentialed data**" in card.read_text()
    model.rename(tmp_path / "elsewhere")
    assert "could not be looked up" in call("model-card", run, "--output", card)[2]
    model.mkdir()
    (model / "mlx_medlora.json").symlink_to("gone")
    status, _, said = call("model-card", run, "--output", card)
    assert (status, "mlx_medlora.json: no such file" in said) == (2, True), said


def test_the_adapter_is_told_by_its_weights(
    place: list[str | Path], runs: dict[str, Path], tmp_path: Path, call: Call
) -> None:
    moved, run, card = tmp_path / "moved", tmp_path / "mine", tmp_path / "README.md"
    shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter")
    arguments = [*place, "--adapter", tmp_path / "adapter", "--no-forgetting", "--no-report"]
    assert call("eval", *arguments, "--output", run)[0] == 0
    (tmp_path / "adapter").rename(moved)
    status, _, said = call("model-card", run, "--output", card)
    assert (status, card.exists()) == (2, False)
    assert "the adapter is not where it was" in said
    assert "--adapter says where it lies now" in said
    assert "its training curves and record are left out" in call("report", run)[2]
    assert call("model-card", run, "--adapter", moved, "--output", card)[0] == 0
    assert "## Training data" in card.read_text()
    assert "left out" not in call("report", run, "--adapter", moved)[2]
    for arguments, wanted in [
        ([run, "--adapter", tmp_path / "gone"], "no such adapter directory"),
        ([runs["base"], "--adapter", moved], "a base model was evaluated, without an adapter"),
    ]:
        status, _, said = call("report", *arguments)
        assert (status, wanted in said) == (2, True), said

    weights = moved / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")  # trained again, say
    for command in (["report", run], ["model-card", run, "--output", card]):
        status, _, said = call(*command, "--adapter", moved)
        assert status == 2
        assert "the adapter's weights are not those that were evaluated" in said
    shutil.copytree(moved, tmp_path / "adapter")
    status, _, said = call("report", run)
    assert status == 0
    assert "not those that were evaluated: its training curves and record are left out" in said


def test_a_page_needs_neither_mlx_nor_scipy(runs: dict[str, Path]) -> None:
    code = (
        "import sys; from mlx_medlora.cli.app import run; "
        f"assert run(['report', {str(runs['tuned'])!r}]) == 0; "
        "assert not {'mlx', 'mlx.core', 'scipy', 'sklearn', 'transformers', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
