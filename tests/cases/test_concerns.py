"""What `prepare` says of tables whose splits are less than they seem."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import PreparedDataset, prepare_table


@pytest.fixture
def make(tmp_path):
    """Prepare 40 cases, each with a patient and an image of its own but for what `change(index)` says."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for index in range(40):
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{index}.png")

    def prepared(change) -> PreparedDataset:
        rows = []
        for index in range(40):
            own = {"id": f"c{index}", "modality": "xray", "image": f"{index}.png", "age": str(20 + index)}
            own |= {"gender": "F", "finding": "Mass", "treatment": "Rest", "patient_id": f"p{index}"}
            rows.append(own | {"label": ("ERROR", "CORRECT")[index % 2]} | change(index))
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return prepare_table(tmp_path / "t.csv", tmp_path / "scans", tmp_path / "out", val=0.2, test=0.2)

    return prepared


def readme(made: PreparedDataset) -> str:
    return (made.output / "README.md").read_text("utf-8")


def test_a_sound_table_gives_no_warning(make):
    made = make(lambda index: {})
    assert made.warnings == []
    assert "Cases of one patient are all in one split.\nNo image is in two splits.\n" in readme(made)


def test_an_image_of_all_cases_is_named_where_it_cannot_be_kept_apart(make):
    made = make(lambda index: {"image": "0.png"})
    [said] = made.warnings
    assert said.startswith("1 of 1 images is in more than one split, with 40 cases: ")
    assert "Images in more than one split: 1." in readme(made)


def test_images_are_counted_by_their_bytes(make, tmp_path):
    """Two images under four names tie all cases together in two groups, for three splits."""
    for copy, of in ((2, 0), (3, 1)):
        (tmp_path / f"scans/{copy}.png").write_bytes((tmp_path / f"scans/{of}.png").read_bytes())
    [said] = make(lambda index: {"image": f"{index % 4}.png"}).warnings
    assert said.startswith("2 of 2 images are in more than one split, with 40 cases: ")


@pytest.mark.parametrize(
    ("heavy", "image", "said"),
    [(36, None, "36"), (1, lambda index: "0.png" if index < 35 else f"{index}.png", "35")],
)
def test_a_split_far_smaller_than_asked_for_is_named(make, heavy, image, said):
    made = make(
        lambda index: {
            "patient_id": "heavy" if index < heavy else f"p{index}",
            "image": image(index) if image else f"{index}.png",
        }
    )
    counts = {name: part.cases for name, part in made.splits.items()}
    [told] = made.warnings
    assert counts["val"] < 4
    assert f"val has {counts['val']} of the 8 cases asked for" in told
    assert f"{said} of 40 cases hang together" in told
    assert "train has" not in told


def test_the_same_case_with_both_answers_is_named_by_its_lines(make):
    made = make(lambda index: {"image": "0.png", "age": "50"} if index in (4, 5, 6) else {})
    [said] = made.warnings
    assert said.startswith("3 cases have a twin with the same text, the same images and the other answer: ")
    assert "lines 6 (ERROR) and 7 (CORRECT). " in said


def test_the_same_text_with_other_images_or_the_same_answer_is_no_contradiction(make):
    change = {"age": "50"}
    assert make(lambda index: change | ({"image": "0.png"} if index in (0, 4, 8) else {})).warnings == []


def test_many_contradictions_are_not_all_listed(make):
    made = make(lambda index: {"image": "0.png", "age": str(20 + index // 2)})
    said = made.warnings[0]
    assert said.startswith("40 cases have a twin")
    assert "lines 2 (ERROR) and 3 (CORRECT); 4 (ERROR) and 5 (CORRECT); 6 (ERROR)" in said
    assert "; and 17 more. No model" in said


@pytest.mark.parametrize("label", ["ERROR", "CORRECT"])
def test_one_answer_alone_is_warned_of(make, label):
    other = "CORRECT" if label == "ERROR" else "ERROR"
    made = make(lambda index: {"label": label})
    [said] = made.warnings
    assert said.startswith(f"all 40 cases are {label}: they teach nothing of {other}, ")
    assert [Dataset.open(made.output).only_label(split) for split in made.splits] == [label] * 3


def test_a_split_of_one_answer_is_warned_of(make):
    made = make(lambda index: {"label": "ERROR" if index < 39 else "CORRECT"})
    lone = [name for name, part in made.splits.items() if part.label["CORRECT"] == 0]
    assert len(lone) == 2
    for name, said in zip(lone, made.warnings, strict=True):
        assert said.startswith(f"every case of the split '{name}' is ERROR: ")
    dataset = Dataset.open(made.output)
    assert [split for split in dataset.splits() if dataset.only_label(split) is not None] == lone


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (0, "No row names a patient (`patient_id`): cases of one patient may be in several splits."),
        (30, "Cases of one `patient_id` are all in one split; 10 of 40 cases have none."),
    ],
)
def test_what_is_not_known_of_patients_is_not_claimed(make, named, said):
    made = make(lambda index: {} if index < named else {"patient_id": ""})
    assert said in readme(made)
    assert "Cases of one patient are all" not in readme(made)
    assert Path(made.output / "dataset_stats.json").read_text("utf-8").count("warnings") == 0
