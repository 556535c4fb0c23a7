import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cases.bundled import write_bundled
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.phantoms import MODALITIES

COMMITTED = Path(__file__).resolve().parents[2] / "lora_training"


@pytest.fixture(scope="module")
def cases():
    dataset = Dataset.open(COMMITTED)
    return {split: dataset.cases(split) for split in dataset.splits()}


def test_the_directory_is_what_the_package_writes(tmp_path):
    write_bundled(tmp_path / "again")
    for folder in (COMMITTED, tmp_path / "again"):
        assert len([path for path in folder.rglob("*") if path.is_file()]) == 14
    for fresh in (path for path in (tmp_path / "again").rglob("*") if path.is_file()):
        kept = COMMITTED / fresh.relative_to(tmp_path / "again")
        if fresh.suffix != ".png":
            assert kept.read_bytes() == fresh.read_bytes()
            continue
        # Compression and the last bit of a sine differ between machines; the drawing may not.
        one, other = (np.asarray(Image.open(path), np.int16) for path in (kept, fresh))
        assert np.abs(one - other).max() <= 2


def test_counts_are_those_of_the_card(cases):
    every = [case for split in cases.values() for case in split]
    assert {split: len(held) for split, held in cases.items()} == {"train": 16, "val": 8}
    assert Counter(case.metadata.error_type for case in every) == {
        "none": 12,
        "overtreatment": 7,
        "unnecessary_procedure": 5,
    }
    assert Counter(case.metadata.severity for case in every) == {
        "none": 12,
        "moderate": 3,
        "high": 3,
        "critical": 6,
    }
    kinds = Counter((case.metadata.modality, case.label) for case in every)
    assert kinds == {(modality, label): 3 for modality in MODALITIES for label in ("ERROR", "CORRECT")}
    names = {f"{modality}_{side}.png" for modality in MODALITIES for side in ("positive", "negative")}
    assert {path.name for path in (COMMITTED / "images").iterdir()} == names
    stats = json.loads((COMMITTED / "dataset_stats.json").read_text("utf-8"))
    assert (stats["cases"], stats["splits"]["val"]["cases"]) == (24, 8)
    assert stats["error_type"]["overtreatment"] == 7


def test_errors_are_beside_clear_images_and_correct_cases_beside_findings(cases):
    for case in (case for split in cases.values() for case in split):
        side = "positive" if case.label == "CORRECT" else "negative"
        assert case.image_file == f"{case.metadata.modality}_{side}.png"
        assert case.image_path == f"images/{case.image_file}"
        assert (
            (case.metadata.error_type == "none")
            == (case.label == "CORRECT")
            == (case.metadata.severity == "none")
        )


def test_the_cards_example_is_there(cases):
    [example] = [
        c for split in cases.values() for c in split if c.id == "xray_004_covid_appropriate_treatment"
    ]
    assert example.instruction.startswith("You are a medical AI assistant trained to detect clinical errors")
    assert example.input.startswith("**Patient Information:**\n- Age: ")
    assert example.output == "CORRECT - Treatment matches imaging findings"
    assert example.image_file == "xray_positive.png"


def test_each_text_is_told_once_as_an_error_and_once_as_correct_in_the_same_split(cases):
    for held in cases.values():
        told: dict[str, list[str]] = {}
        for case in held:
            told.setdefault(case.input.split("\n\n", 1)[1], []).append(case.label)
        assert {tuple(sorted(labels)) for labels in told.values()} == {("CORRECT", "ERROR")}


def test_age_and_gender_do_not_give_the_answer_away(cases):
    every = [case for split in cases.values() for case in split]
    ages = {case.id: int(case.input.split("- Age: ")[1].split("\n")[0]) for case in every}
    values = sorted(set(ages.values()))
    best = max(
        max(right, 24 - right)
        for limit in values
        for right in [sum((ages[case.id] >= limit) == (case.label == "ERROR") for case in every)]
    )
    assert best <= 15
    genders = Counter((case.label, "Female" in case.input) for case in every)
    assert genders["ERROR", True] == genders["CORRECT", True]
