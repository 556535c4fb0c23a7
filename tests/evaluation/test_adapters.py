import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.evaluation.adapters import (
    CHOSE,
    MANIFEST,
    RECORDS,
    TRAINED,
    WEIGHTS,
    caveat,
    digest,
    record_of,
    record_of_model,
)
from mlx_medlora.evaluation.operating_point import weights_sha256
from mlx_medlora.files import sha256
from mlx_medlora.gemma import manifest
from mlx_medlora.gemma.hub import EMBEDDED, resolve
from mlx_medlora.lora import adapter, formats, peft, provenance
from mlx_medlora.lora.fuse import fuse

VAL = {"val": {"sha256": "own"}}
REFERENCE = Path(__file__).resolve().parents[2] / "adapters"


def test_an_adapter_of_either_form_is_told_by_its_weights(tmp_path: Path) -> None:
    assert [name for name, _ in RECORDS] == [provenance.RUN, provenance.TRAINING_DATA]
    assert WEIGHTS == (peft.WEIGHTS, adapter.WEIGHTS)
    for name, file in zip(("reference-peft", "reference"), WEIGHTS, strict=True):
        assert digest(REFERENCE / name) == sha256(REFERENCE / name / file)
    assert digest(tmp_path) is None
    for name, file in zip(("reference-peft", "reference"), WEIGHTS, strict=True):
        shutil.copy(REFERENCE / name / file, tmp_path)
    assert formats.detect(tmp_path) == "PEFT"  # of both, these are loaded
    assert digest(tmp_path) == weights_sha256(tmp_path) == sha256(REFERENCE / "reference-peft" / peft.WEIGHTS)


@pytest.mark.parametrize(
    ("record", "split", "splits", "wanted"),
    [
        ({}, "val", (), None),
        ({"data": {"train": {"sha256": "own"}, "val": {"sha256": "own"}}}, "val", (), TRAINED),
        ({"data": {"val": {"sha256": "own"}}}, "val", ("val",), f"{CHOSE}; keep a test split for the claim"),
        (
            {"data": {"val": {"sha256": "own"}}, "best_by": "validation loss"},
            "val",
            ("train", "val", "test"),
            f"{CHOSE}; for a claim evaluate the split test (--split test)",
        ),
        (
            {"data": {"val": {"sha256": "own"}}},
            "test",
            ("test",),
            f"{CHOSE}; keep a test split for the claim",
        ),
        ({"data": {"val": {"sha256": "own"}}, "best_by": "the last epoch"}, "val", (), None),
        ({"data": {"val": {"sha256": "other"}}}, "val", (), None),
        ({"data": ["val"]}, "val", (), None),
        ({"data": {"val": "own"}}, "val", (), None),
    ],
)
def test_what_training_used_these_cases_for(
    record: dict[str, Any], split: str, splits: tuple[str, ...], wanted: str | None
) -> None:
    assert caveat(record, "own", split, splits) == wanted
    assert caveat(record, None, split, splits) is None


def test_the_record_of_a_trained_and_of_an_exported_adapter(tmp_path: Path) -> None:
    assert record_of(tmp_path) == {}
    (tmp_path / "training_data.json").write_text(json.dumps({"splits": {"val": {"sha256": "a"}}}))
    assert record_of(tmp_path)["data"] == {"val": {"sha256": "a"}}
    (tmp_path / "run.json").write_text(json.dumps({"data": {"val": {"sha256": "b"}}, "updates": 3}))
    assert record_of(tmp_path) == {"data": {"val": {"sha256": "b"}}, "updates": 3}


def test_a_fused_model_says_what_its_adapter_read(tmp_path: Path) -> None:
    assert MANIFEST == manifest.MANIFEST
    assert record_of_model(resolve(EMBEDDED)) == {}
    fuse(EMBEDDED, REFERENCE / "reference", tmp_path / "fused")
    own = record_of(REFERENCE / "reference")["data"]
    assert record_of_model(tmp_path / "fused")["data"]["train"]["sha256"] == own["train"]["sha256"]
    assert caveat(record_of_model(tmp_path / "fused"), own["train"]["sha256"]) == TRAINED
