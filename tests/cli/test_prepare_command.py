"""What `prepare`, and the commands that read its datasets, say of tables that teach little."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mlx_medlora.cases.dataset import Dataset

Call = Callable[..., tuple[int, dict[str, Any], str]]

HEADER = "id,modality,image,age,gender,finding,treatment,label,patient_id,site"


def table(folder: Path, rows: list[str]) -> list[str | Path]:
    """The table and an image for each case: what `prepare` is given."""
    for number in range(len(rows)):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
    (folder / "t.csv").write_text("\n".join([HEADER, *rows]))
    return ["prepare", folder / "t.csv", "--images", folder, "--output", folder / "out"]


def row(number: int, wrong: bool, finding: str, patient: str) -> str:
    gender = ("Female", "Male")[number // 2 % 2]
    label = "ERROR" if wrong else "CORRECT"
    return f"c{number},xray,{number}.png,{20 + number},{gender},{finding},Rest,{label},{patient},{number % 3}"


def test_a_shortcut_of_few_patients_is_said_with_its_counts(tmp_path: Path, call: Call) -> None:
    rows = [row(n, n % 3 == 0, "Clear lungs" if n % 3 == 0 else "A mass", f"p{n // 3}") for n in range(30)]
    status, made, said = call(*table(tmp_path, rows))
    assert status == 0
    assert "30 cases of 10 patients cannot tell whether the text gives answers away (the interval of " in said
    assert "words alone predict 30 of 30 right answers, always giving the commoner one 20." in said
    assert "'clear' (10 of 10 are errors)" in said
    assert "'age'" not in said
    assert "never look at the image" in said
    assert [f"Warning: {warning}" for warning in made["warnings"]] == said.splitlines()


def test_few_patients_without_a_shortcut_get_a_remark_and_no_warning(tmp_path: Path, call: Call) -> None:
    rows = [row(n, n % 2 == 0, "A mass", f"p{n // 2}") for n in range(24)]
    _, made, said = call(*table(tmp_path, rows))
    assert made["warnings"] == []
    assert said.startswith("24 cases of 12 patients cannot tell whether the text gives answers away")
    assert "Words that tell" not in said


def test_five_places_are_not_filled_with_words_that_tell_nothing(tmp_path: Path, call: Call) -> None:
    rows = [row(n, n % 2 == 0, f"A mass{' audited' * (n % 2)}", f"p{n}") for n in range(60)]
    _, made, _ = call(*table(tmp_path, rows))
    [warning] = made["warnings"]
    assert "Words that tell most: 'audited' (0 of 30 are errors). A model" in warning


@pytest.mark.parametrize("label", ["ERROR", "CORRECT"])
def test_one_answer_alone_is_said_before_training_and_measuring(
    tiny_medgemma: Path, tmp_path: Path, call: Call, label: str
) -> None:
    rows = [row(n, label == "ERROR", "A mass", f"p{n}") for n in range(10)]
    _, _, said = call(*table(tmp_path, rows))
    assert f"Warning: all 10 cases are {label}: " in said
    place = ["--model", tiny_medgemma, "--data", tmp_path / "out"]
    status, _, said = call("train", *place, "--dry-run")
    assert status == 0
    assert f"Warning: every case of the split 'train' is {label}: training on one answer alone" in said
    assert f"Warning: every case of the split 'val' is {label}: figures on it show nothing of" in said
    status, _, again = call("train", *place, "--epochs", "1", "--output", tmp_path / "adapter")
    assert status == 0
    assert again.startswith(said)
    status, _, said = call("eval", *place, "--no-report", "--output", tmp_path / "run")
    assert status == 0
    assert f"Warning: every case of the split 'val' is {label}: " in said
    assert "'train'" not in said


def test_both_answers_are_no_reason_to_warn(place: list[str | Path], call: Call) -> None:
    assert "every case" not in call("train", *place, "--dry-run")[2]


def test_figures_by_the_columns_of_a_table(tiny_medgemma: Path, tmp_path: Path, call: Call) -> None:
    """The example of `eval --help`, and the age's group."""
    rows = [row(n, n % 2 == 0, "A mass", f"p{n}") for n in range(24)]
    call(*table(tmp_path, rows), "--val", "12")
    arguments = ["eval", "--model", tiny_medgemma, "--data", tmp_path / "out", "--no-report"]
    by = [part for field in ("gender", "site", "age_group", "age") for part in ("--by", field)]
    status, card, said = call(*arguments, *by, "--output", tmp_path / "run")
    assert (status, said.count("Error")) == (0, 0)
    assert set(card["by"]["gender"]) == {"Female", "Male"}
    assert set(card["by"]["site"]) == {"0", "1", "2"}
    cases = Dataset.open(tmp_path / "out").cases("val")
    groups = {case.metadata.model_dump()["age_group"] for case in cases}
    assert set(card["by"]["age_group"]) == groups <= {"18-39", "40-64"}
    assert len(card["by"]["age"]) == 12
