"""The model card, read back by huggingface_hub."""

from __future__ import annotations

import json
import re
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
from mlx_medlora.lora.peft_card import peft_card
from mlx_medlora.lora.provenance import Provenance, read_provenance
from mlx_medlora.marks import DataSource
from mlx_medlora.report.model_card import HEADING, with_evidence
from mlx_medlora.report.sources import without_cases

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def card(tmp_path: Path) -> tuple[str, Path]:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
    run = usual(tmp_path, adapter=str(adapter))
    text = model_card(adapter, read_adapter_config(adapter), read_provenance(adapter))
    return with_evidence(text, without_cases(read_run(run))), run


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
    assert with_evidence(text, without_cases(read_run(run))).count(HEADING) == 1


def test_a_model_without_an_adapter(tmp_path: Path) -> None:
    run = usual(tmp_path, model="/home/someone/models/fused")
    text = with_evidence(base_card("/home/someone/models/fused"), without_cases(read_run(run)))
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.base_model == "fused"
    assert read.data.eval_results
    assert "/home/someone" not in text
    assert "Health AI Developer Foundations" in text


def test_names_from_a_dataset_are_no_markup(tmp_path: Path) -> None:
    rows = [row(number, metadata={"modality": f"a|b<script>{HOSTILE}"}) for number in range(3)]
    data = write_dataset(tmp_path / "a b|c", rows)
    run = write_run(tmp_path / "run", data, [0.9, 0.1, 0.9])
    text = with_evidence(base_card("m"), without_cases(read_run(run)))
    read = ModelCard(text, ignore_metadata_errors=False)
    assert (read.data.eval_results or [])[0].dataset_type == "a-b-c"
    assert "<script>" not in text.replace("\\<script\\>", "")
    table = [line for line in text.splitlines() if line.startswith("| a\\|b")]
    assert len(table) == 1
    assert json.dumps(table[0])


def test_the_card_of_a_peft_adapter(tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference-peft", tmp_path / "adapter"))
    text = peft_card(adapter, "models/medgemma")
    said = text.replace("\\", "")
    for wanted in (
        "base_model: tiny-medgemma\n",
        "| layers | 18 (.*language_model.(.*.)?layers.",
        "| rank, alpha, dropout | 16, 32, 0.1 |",
        "| form | LoRA |",
        "| written by | PEFT |",
        "Not known: another tool made the adapter.",
    ):
        assert wanted in said, wanted
    config = json.loads((adapter / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": None, "target_modules": ["q_proj", 'v|"<b>\n---'], "use_dora": True}
    config |= {"peft_version": "0.19.0", "rank_pattern": {"q_proj": 4}, "use_rslora": True}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    splits = {"train": {"rows": 9, "supervised_tokens": 90, "sha256": "abc"}}
    (adapter / "training_data.json").write_text(json.dumps({"splits": splits, "source": None}))
    text = peft_card(adapter, '/home/someone/base: "x"\n- y')
    read = ModelCard(text, ignore_metadata_errors=False)
    assert read.data.base_model == "base-x---y"
    assert "/home/someone" not in text
    for wanted in ("rank-stabilised DoRA", "16 (1 patterns", "PEFT 0.19.0", "| train | 9 | 90 | `abc` |"):
        assert wanted in text
    assert "<b>" not in text.replace("\\<b\\>", "")
    run = usual(tmp_path, adapter=str(adapter))
    whole = ModelCard(with_evidence(text, without_cases(read_run(run))), ignore_metadata_errors=False)
    assert whole.data.eval_results


def test_a_mark_and_a_name_are_no_markup() -> None:
    mark = DataSource(name="<img src=x> **free to use** | [a](javascript:x)", credentialed=True)
    text = base_card("m\n# Validated", Provenance(contains=(), others=(mark,)))
    body = text.split("---", 2)[2]
    assert [line for line in body.splitlines() if line.startswith("# ")] == ["# m \\# Validated"]
    plain = re.sub(r"\\.", "", body)  # without what is escaped
    for wrong in ("<img", "**free", "| [", "[a"):
        assert wrong not in plain
    assert body.count("free to use") == 2  # as what it was trained on, and in the warning


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ([0.5, 0.9], "| validation accuracy | 75.0 % (95 % interval 50.0-90.0 %) |"),
        *(
            (wrong, "| validation accuracy | 75.0 % |")
            for wrong in (None, [0.9, 0.5], [0.1, 0.2], [-5, 7], "ab")
        ),
    ],
)
def test_an_interval_that_is_none_is_left_out(tmp_path: Path, interval: object, said: str) -> None:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
    found = json.loads((adapter / "run.json").read_text())
    found |= {"val_accuracy": 0.75, "val_accuracy_interval": interval, "best_by": "validation loss"}
    (adapter / "run.json").write_text(json.dumps(found))
    card = model_card(adapter, read_adapter_config(adapter), read_provenance(adapter))
    assert said in card
    assert "The validation cases chose the epoch; they are no evidence of" in card


def test_a_card_says_what_chose_the_epoch_only_where_something_did(tmp_path: Path) -> None:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
    found = json.loads((adapter / "run.json").read_text()) | {"best_by": "there being no other"}
    (adapter / "run.json").write_text(json.dumps(found))
    card = model_card(adapter, read_adapter_config(adapter), read_provenance(adapter))
    assert "chose" not in card


@pytest.mark.parametrize("name", ["null", "12", "a: b", 'x"y', "- z", "google/medgemma-4b-it", "Yes"])
def test_a_base_s_name_is_no_yaml(name: str) -> None:
    assert ModelCard(base_card(name), ignore_metadata_errors=False).data.base_model == Path(name).name
