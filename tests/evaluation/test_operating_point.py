import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.choosing import choose
from mlx_medlora.evaluation.metrics import score
from mlx_medlora.evaluation.operating_point import (
    apply_point,
    judge_one,
    read_point,
    write_point,
)
from mlx_medlora.evaluation.results import OperatingPoint, Prediction
from mlx_medlora.evaluation.runs import POINT
from mlx_medlora.lora.exchange import export_adapter
from mlx_medlora.lora.formats import load_any
from mlx_medlora.lora.load import load_model

Make = Callable[..., list[Prediction]]
REFERENCE = Path(__file__).resolve().parents[2] / "adapters" / "reference"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REFERENCE, tmp_path / "adapter"))


@pytest.fixture
def known(scored: Make) -> list[Prediction]:
    """200 overconfident answers: log-odds three times what they should be."""
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 1.5, 200)
    error = rng.random(200) < 1 / (1 + np.exp(-odds))
    rows = zip(np.where(error, "ERROR", "CORRECT"), 1 / (1 + np.exp(-3 * odds)), strict=True)
    return scored([(str(label), float(p)) for label, p in rows])


def chosen(known: list[Prediction], adapter: Path, **more: Any) -> OperatingPoint:
    fields: dict[str, Any] = {
        "rule": "max-false-flag",
        "limit": 0.1,
        "adapter": adapter,
        "model": "tiny-medgemma",
        "model_fingerprint": "f" * 64,
        "split": "val",
        "split_sha256": "a" * 64,
    }
    return choose(known, **(fields | more))


def test_what_is_chosen_is_what_an_evaluation_reaches(known: list[Prediction], adapter: Path) -> None:
    point = chosen(known, adapter)
    assert 2 < point.temperature < 4.5
    assert point.ece_after < point.ece_before
    assert point.false_flag_rate.value is not None
    assert point.false_flag_rate.value <= 0.1
    decided, applied = apply_point(point, known, split_sha256="b" * 64, model_fingerprint="f" * 64)
    card = score(decided, point=applied)
    assert card.fpr == point.false_flag_rate
    assert card.tnr == point.sensitivity
    assert card.operating_point == applied
    assert (applied.same_cases, applied.warnings) == (False, ())
    assert card.calibration is not None
    assert card.calibration.ece == pytest.approx(point.ece_after)
    assert card.calibration.ece_interval == pytest.approx(point.ece_after_interval)
    assert card.calibration_before is not None
    assert card.calibration_before.ece_interval == pytest.approx(point.ece_before_interval)
    assert card.calibration_before.ece == pytest.approx(point.ece_before)
    assert card.measures["auroc"].value == pytest.approx(score(known).measures["auroc"].value)
    for one in decided:
        assert one.p_calibrated is not None
        assert (one.predicted == "ERROR") == (one.p_calibrated >= point.threshold)
        assert one.correct == (one.predicted == one.label)
        assert one.probability == one.p_calibrated
    alone = judge_one(point, known[0].p_error or 0.0)
    assert (alone.verdict, alone.p_calibrated) == (decided[0].predicted, decided[0].p_calibrated)


def test_it_says_what_speaks_against_it(known: list[Prediction], adapter: Path) -> None:
    point = chosen(known, adapter)
    _, applied = apply_point(point, known, split_sha256="a" * 64, model_fingerprint="0" * 64)
    assert applied.same_cases
    assert "these very cases" in applied.warnings[0]
    assert "another form of the model" in applied.warnings[1]
    assert any("expect worse on new ones" in note for note in point.notes)
    assert any("interval of the false-flag rate reaches beyond 10 %" in note for note in point.notes)
    assert any("no error is found" in note for note in chosen(known, adapter, limit=0.0).notes) == (
        chosen(known, adapter, limit=0.0).sensitivity.count == 0
    )
    every = chosen(known, adapter, rule="min-sensitivity", limit=1.0)
    assert every.sensitivity.value == 1.0


def test_at_the_threshold_itself_a_case_is_flagged(known: list[Prediction], adapter: Path) -> None:
    level = chosen(known, adapter).model_copy(update={"temperature": 1.0, "threshold": known[0].p_error})
    decided, _ = apply_point(level, known, split_sha256="", model_fingerprint="")
    assert decided[0].predicted == "ERROR"
    assert judge_one(level, known[0].p_error or 0.0).verdict == "ERROR"
    above = level.model_copy(update={"threshold": float(np.nextafter(known[0].p_error or 0.0, 2))})
    assert judge_one(above, known[0].p_error or 0.0).verdict == "CORRECT"


def test_one_class_is_refused(scored: Make, adapter: Path) -> None:
    with pytest.raises(InputError, match="only cases of one right answer"):
        chosen(scored([("ERROR", 0.9), ("ERROR", 0.2)]), adapter)


def test_it_is_kept_with_the_adapter(known: list[Prediction], adapter: Path, tiny_medgemma: Path) -> None:
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    assert read_point(adapter) is None
    point = chosen(known, adapter)
    assert write_point(adapter, point) == adapter / POINT
    assert read_point(adapter) == point
    with pytest.raises(InputError, match="has an operating point already") as error:
        write_point(adapter, point)
    assert "--replace" in str(error.value.hint)
    other = chosen(known, adapter, limit=0.5)
    write_point(adapter, other, replace=True)
    assert read_point(adapter) == other
    (adapter / POINT).unlink()
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    write_point(adapter, point)
    assert load_any(load_model(tiny_medgemma), adapter)  # still an adapter


def test_it_is_complete_or_as_it_was(
    known: list[Prediction], adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = chosen(known, adapter)
    write_point(adapter, point)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_medlora.atomic.sync_path", full)
    names = sorted(file.name for file in adapter.iterdir())
    with pytest.raises(Exception, match="no space left"):
        write_point(adapter, chosen(known, adapter, limit=0.5), replace=True)
    assert sorted(file.name for file in adapter.iterdir()) == names
    assert read_point(adapter) == point


def test_other_weights_are_refused(known: list[Prediction], adapter: Path) -> None:
    write_point(adapter, chosen(known, adapter))
    with (adapter / "adapters.safetensors").open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(InputError, match="chosen for other weights") as error:
        read_point(adapter)
    assert "--ignore-operating-point" in str(error.value.hint)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[]", "expected an object"), ("{", "not valid JSON"), ('{"threshold": -1}', "threshold"), ("", "JSON")],
)
def test_a_damaged_file_is_named(text: str, said: str, adapter: Path) -> None:
    (adapter / POINT).write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read_point(adapter)
    assert POINT in str(error.value)


def test_an_exported_adapter_has_none(known: list[Prediction], adapter: Path, tmp_path: Path) -> None:
    """The threshold belongs to the scores of this toolkit; PEFT would not know of it."""
    write_point(adapter, chosen(known, adapter))
    export_adapter(adapter, tmp_path / "peft")
    assert not (tmp_path / "peft" / POINT).exists()
    write_point(tmp_path / "peft", chosen(known, tmp_path / "peft"))  # it can be given one of its own
    assert read_point(tmp_path / "peft") is not None
    json.loads((tmp_path / "peft" / POINT).read_text())
