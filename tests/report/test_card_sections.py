"""The sections of the model card: what the page says first, and nothing of any case."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from runs import HOSTILE, POINT, row, usual, write_dataset, write_run

from mlx_medlora.evaluation.gate import Gate
from mlx_medlora.evaluation.results import Measure
from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.lora.model_card import base_card
from mlx_medlora.report.model_card import with_evidence
from mlx_medlora.report.sources import Evidence, without_cases
from mlx_medlora.report.view import alerts

ROOT = Path(__file__).resolve().parents[2]
SECRET = "Zsecret"
ODD = "a|b<b>"


def secret_row(number: int) -> dict[str, Any]:
    return row(
        number,
        "ERROR" if number % 8 < 4 else "CORRECT",
        id=f"{SECRET}-case-{number}",
        input=f"{SECRET} text {HOSTILE}",
        patient_id=f"{SECRET}-patient-{number // 2}",
        metadata={"site": f"{SECRET}-site-{number % 2}"}
        | ({"modality": "a|b<b>"} if number % 4 == 1 else {}),
    )


def looked_into(directory: Path) -> Evidence:
    """A run with everything beside it, whose cases, patients and sites have names that must not get out."""
    rows = [secret_row(number) for number in range(60)]
    data = write_dataset(directory / "data", rows)
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", directory / "adapter"))
    given = [0.93 if one["output"].startswith("ERROR") else 0.04 for one in rows]
    given[0] = given[9] = 0.2
    gates = [Gate(measure="accuracy", at_least=0.9, each="site"), Gate(measure="mcc", at_least=0.5)]
    run = write_run(directory / "run", data, given, by=["site"], gates=gates, adapter=str(adapter))
    record = json.loads((adapter / "run.json").read_text())
    record["data"]["val"]["sha256"] = read_run(run).scorecard.about["split_sha256"]
    (adapter / "run.json").write_text(json.dumps(record))
    measure = Measure(
        name="from_image", value=0.01, n=60, meaning="accuracy | lost <b>", interval=(-0.02, 0.04)
    )
    dependence = {"verdict": "does not look <at> the image", "looks": False, "shortcut": True}
    dependence |= {"sentences": [f"{SECRET} is a word"], "figures": [measure.model_dump()]}
    dependence |= {"occlusion": [{"id": f"{SECRET}-case-1", "path": f"occlusion/{SECRET}.png"}]}
    (run / "dependence.json").write_text(json.dumps(dependence))
    finding = {
        "kind": "overfitting",
        "found": True,
        "sentence": "Validation loss rose.",
        "advice": "dropout 0.2",
    }
    untold = {"kind": "forgetting", "found": None, "sentence": "Not asked.", "advice": ""}
    (run / "health.json").write_text(json.dumps({"findings": [finding, untold]}))
    found = without_cases(read_run(run))
    before = found.scorecard.calibration
    update = {"operating_point": POINT, "calibration_before": before}
    return replace(found, scorecard=found.scorecard.model_copy(update=update))


def test_what_the_page_says_first_stands_above_the_card_s_figures(tmp_path: Path) -> None:
    found = looked_into(tmp_path)
    text = with_evidence(base_card("m"), found)
    said = text.split("---", 2)[2].replace("\xa0", " ").replace("\\", "")
    figures = said.index("| figure | value |")
    assert len(alerts(found)) == 5
    for wanted in (
        "- The image does not carry its right answers.",
        "- The text alone gives answers away",
        "- These very cases chose the adapter's epoch: new cases will do worse; keep a test split",
        "- The threshold was chosen on these very cases",
        "- Overfitting: Validation loss rose.",
    ):
        assert said.index("**Read this first**") < said.index(wanted) < figures, wanted
    for wanted in (
        "| critical | 1 of 8 | 12.5 % |",
        "Weighted by severity: ",
        "**does not look <at> the image**",
        "| From image | 1.0 % | -2.0 to 4.0 % | 60 | accuracy | lost <b> |",
        "Operating point: ERROR from a probability of 0.4321 on, after temperature 1.500; max-false-flag "
        "0.05, chosen on 60 cases of the split test, **these very cases**.",
        "| ECE | 0.",
        "| ECE before the temperature | 0.",
        "| Brier score | 0.",
        "- Overfitting: found. Validation loss rose.",
        "- Forgetting: cannot be told. Not asked.",
        "| MCC at least 0.5, all cases | 0.9",
    ):
        assert said.index(wanted) > figures, wanted


def test_no_case_gets_into_the_card(tmp_path: Path) -> None:
    found = looked_into(tmp_path)
    text = with_evidence(base_card("m"), found)
    assert SECRET not in text
    assert str(tmp_path) not in text
    assert "one group by another field" in text
    read = ModelCard(text, ignore_metadata_errors=False)
    again = ModelCard(str(read), ignore_metadata_errors=False)
    assert again.data.to_dict() == read.data.to_dict()
    assert len(read.data.eval_results or []) == sum(
        m.value is not None for m in found.scorecard.measures.values()
    )
    body = text.split("---", 2)[2]
    assert "<b>" not in body.replace("\\<b\\>", "")
    widths = [len(block.splitlines()[0].replace("\\|", "").split("|")) for block in tables(body)]
    for block, width in zip(tables(body), widths, strict=True):
        assert {len(line.replace("\\|", "").split("|")) for line in block.splitlines()} == {width}


def tables(body: str) -> list[str]:
    return [block for block in body.split("\n\n") if block.startswith("|")]


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    text = with_evidence(base_card("m"), without_cases(read_run(usual(tmp_path))))
    assert "Whether the answers come from the images was not measured" in text
    assert text.count("`eval --dependence` measures it.") == 1
    assert "No operating point was applied: ERROR from a probability of one half on." in text
    assert "Read this first" not in text
    assert "### Run health" not in text
    written = with_evidence(base_card("m"), without_cases(read_run(usual(tmp_path / "b", generated=True))))
    assert "there is no threshold" in written
    assert "| ECE |" not in written
