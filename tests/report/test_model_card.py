"""The model card, read back by huggingface_hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from runs import HOSTILE, row, usual, write_dataset, write_run

from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.lora.adapter import read_adapter_config
from mlx_medlora.lora.model_card import base_card, model_card
from mlx_medlora.report.model_card import HEADING, with_figures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def card(tmp_path: Path) -> tuple[str, Path]:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
    run = usual(tmp_path, adapter=str(adapter))
    text = model_card(adapter, read_adapter_config(adapter))
    return with_figures(text, read_run(run).scorecard), run


def test_the_hub_s_reader_finds_every_figure(card: tuple[str, Path]) -> None:
    text, run = card
    found = read_run(run).scorecard
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.model_name == "adapter"
    assert read.data.license == "other"
    assert read.data.tags == ["medgemma", "lora", "clinical-error-detection", "mlx-medlora"]
    results = {one.metric_name: one for one in read.data.eval_results or []}
    assert len(results) == sum(one.value is not None for one in found.measures.values())
    accuracy = found.measures["accuracy"]
    assert accuracy.value is not None
    assert accuracy.interval is not None
    assert results["Accuracy"].metric_type == "accuracy"
    assert results["Accuracy"].metric_value == pytest.approx(accuracy.value, abs=1e-6)
    assert results["Accuracy"].metric_args == {"n": 60, "interval_95": pytest.approx(list(accuracy.interval))}
    assert results["AUROC"].metric_type == "roc_auc"
    assert results["Accuracy"].dataset_split == "test"
    assert (results["Accuracy"].dataset_args or {})["split_sha256"] == found.about["split_sha256"]
    index = yaml.safe_load(text.split("---")[1])["model-index"]
    name, again = model_index_to_eval_results(index)
    assert (name, len(again)) == ("adapter", len(results))


def test_its_body_has_figures_gates_and_no_case(card: tuple[str, Path]) -> None:
    text, run = card
    body = text.split("---", 2)[2].replace("\xa0", " ")
    found = read_run(run).scorecard
    accuracy = found.measures["accuracy"]
    assert accuracy.value is not None
    assert f"| Accuracy | {100 * accuracy.value:.1f} % |" in body
    assert "not a medical device" in body.lower()
    assert (
        body.index("## Training data") < body.index(HEADING) < body.index("## Use") < body.index("## Licence")
    )
    assert found.gates is not None
    assert f"Gates (dataset card): **{found.gates.verdict}**" in body
    assert "TNR (errors found) at least 95 %" in body
    assert "case_00" not in text
    assert "patient-" not in text
    assert str(run.parent) not in text


def test_the_same_card_twice(card: tuple[str, Path]) -> None:
    text, run = card
    assert with_figures(text, read_run(run).scorecard).count(HEADING) == 1


def test_a_model_without_an_adapter(tmp_path: Path) -> None:
    run = usual(tmp_path, model="/home/someone/models/fused")
    text = with_figures(base_card("/home/someone/models/fused"), read_run(run).scorecard)
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.base_model == "fused"
    assert read.data.eval_results
    assert "/home/someone" not in text
    assert "Health AI Developer Foundations" in text


def test_names_from_a_dataset_are_no_markup(tmp_path: Path) -> None:
    rows = [row(number, metadata={"modality": f"a|b<script>{HOSTILE}"}) for number in range(3)]
    data = write_dataset(tmp_path / "a b|c", rows)
    run = write_run(tmp_path / "run", data, [0.9, 0.1, 0.9])
    text = with_figures(base_card("m"), read_run(run).scorecard)
    read = ModelCard(text, ignore_metadata_errors=False)
    assert (read.data.eval_results or [])[0].dataset_type == "a-b-c"
    assert "<script>" not in text.replace("\\<script\\>", "")
    table = [line for line in text.splitlines() if line.startswith("| a\\|b")]
    assert len(table) == 1
    assert json.dumps(table[0])
