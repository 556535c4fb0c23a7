import csv
import hashlib
import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import balanced_cells, prepare_phantoms, prepare_table
from mlx_medlora.errors import InputError, MedloraError

COLUMNS = [
    "id",
    "modality",
    "image",
    "age",
    "gender",
    "finding",
    "treatment",
    "label",
    "error_type",
    "severity",
    "patient_id",
]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "pictures"
    for place in ("a", "b"):
        (folder / place).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(24):
        pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("a" if index % 2 else "b") / f"Scan {index // 2}.png")
    return folder


def rows(count=24, **change):
    def row(index):
        own = {
            "id": f"case{index}",
            "modality": ("MRI", "Chest X-Ray")[index % 4 // 2],
            "image": f"{'a' if index % 2 else 'b'}/Scan {index // 2}.png",
            "age": "50",
            "gender": "F",
            "finding": f"Finding {index}",
            "treatment": "Biopsy",
            "label": ("ERROR", "CORRECT")[index % 2],
            "patient_id": f"p{index // 2}",
        }
        return own | change

    return [row(index) for index in range(count)]


def table(folder: Path, values) -> Path:
    path = folder / "cases.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=COLUMNS)
        writer.writeheader()
        writer.writerows(values)
    return path


def test_a_table_becomes_a_dataset_that_opens(tmp_path, images):
    made = prepare_table(table(tmp_path, rows()), images, tmp_path / "out", val=0.25, test=0.25)
    assert {name: part.cases for name, part in made.splits.items()} == {"train": 12, "val": 6, "test": 6}
    assert made.modality == {"chest x-ray": 12, "mri": 12}
    assert made.label == {"CORRECT": 12, "ERROR": 12}
    assert (made.images, made.patients, made.output) == (24, 12, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    ids, names, patients = [], set(), {}
    for split in dataset.splits():
        cases = dataset.cases(split)
        ids += [case.id for case in cases]
        names |= {path.name.casefold() for case in cases for path in dataset.image_files(case)}
        patients[split] = {case.patient_id for case in cases}
        assert json.loads((tmp_path / f"out/{split}.json").read_text("utf-8")) == [
            case.row() for case in cases
        ]
    assert sorted(ids) == sorted(f"case{index}" for index in range(24))
    assert len(names) == 24
    assert all(not one & other for one, other in combinations(patients.values(), 2))
    stats = json.loads((tmp_path / "out/dataset_stats.json").read_text("utf-8"))
    assert stats == made.model_dump(exclude={"output", "data_source", "warnings"})
    assert made.warnings == []
    assert "| cases | 24 | 12 | 6 | 6 |" in (tmp_path / "out/README.md").read_text("utf-8")


def test_images_keep_their_bytes_and_their_case(tmp_path, images):
    prepare_table(table(tmp_path, rows()), images, tmp_path / "out")
    dataset = Dataset.open(tmp_path / "out")
    for case in (case for split in dataset.splits() for case in dataset.cases(split)):
        source = images / rows()[int(case.id.removeprefix("case"))]["image"]
        [copy] = dataset.image_files(case)
        assert copy.read_bytes() == source.read_bytes()
        assert case.image_file == copy.name


def test_the_same_seed_gives_the_same_files(tmp_path, images):
    for name, seed in (("one", 3), ("two", 3), ("three", 5)):
        prepare_table(table(tmp_path, rows()), images, tmp_path / name, seed=seed)
    one, two, three = ((tmp_path / name / "val.jsonl").read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_an_image_is_never_in_two_splits(tmp_path, images):
    shared = [
        {**row, "image": f"a/Scan {index // 3}.png", "patient_id": ""} for index, row in enumerate(rows())
    ]
    prepare_table(table(tmp_path, shared), images, tmp_path / "out", val=0.25)
    dataset = Dataset.open(tmp_path / "out")
    train, val = (
        {path for case in dataset.cases(name) for path in case.image_paths} for name in ("train", "val")
    )
    assert train
    assert val
    assert not train & val


def test_one_image_for_all_cases_still_splits_by_patient(tmp_path, images):
    made = prepare_table(table(tmp_path, rows(image="a/Scan 0.png")), images, tmp_path / "out")
    assert made.images == 1
    assert set(made.splits) == {"train", "val"}


def test_text_only_rows_and_several_images(tmp_path, images):
    values = rows(8, patient_id="")
    values[0]["image"] = ""
    values[1]["image"] = "a/Scan 0.png; b/Scan 1.png"
    made = prepare_table(table(tmp_path, values), images, tmp_path / "out", val=0)
    assert (made.text_only, list(made.splits)) == (1, ["train"])
    first, second, *_ = Dataset.open(tmp_path / "out").cases("train")
    assert first.image_paths == ()
    assert second.image_paths == ("images/Scan_0.png", "images/Scan_1.png")


def test_a_text_only_table_needs_no_folder(tmp_path):
    assert prepare_table(table(tmp_path, rows(image="")), None, tmp_path / "out").text_only == 24


def test_a_prepared_dataset_can_be_prepared_again(tmp_path, images):
    prepare_table(table(tmp_path, rows()), images, tmp_path / "one", val=0)
    for folder, name in (("one/images", "two"), ("one", "three")):
        made = prepare_table(tmp_path / "one/train.jsonl", tmp_path / folder, tmp_path / name, val=0)
        assert made.images == 24
        assert (tmp_path / name / "train.jsonl").read_bytes() == (tmp_path / "one/train.jsonl").read_bytes()


def break_image(images: Path, content: bytes) -> None:
    (images / "b/Scan 0.png").write_bytes(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "b/Scan 0.png: the image file is empty (0 bytes)"),
        (b"GIF89a", "b/Scan 0.png: not an image of a known kind"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "b/Scan 0.png: "),
    ],
)
def test_a_bad_image_is_named_with_its_row(tmp_path, images, content, said):
    break_image(images, content)
    with pytest.raises(InputError) as caught:
        prepare_table(table(tmp_path, rows()), images, tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'cases.csv'}:2: ")
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_truncated_image_is_refused(tmp_path, images):
    whole = (images / "b/Scan 0.png").read_bytes()
    break_image(images, whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cases\.csv:2: .*Scan 0\.png: the image is damaged or cut short"):
        prepare_table(table(tmp_path, rows()), images, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "none.png"}, r"cases\.csv:2: the image 'none\.png' is not in "),
        ({"image": "/etc/hostname"}, r"cases\.csv:2: the image path '/etc/hostname' is absolute"),
        ({"image": "a/../../cases.csv"}, r"cases\.csv:2: the image path .* leaves its directory"),
        ({"image": "link.png"}, r"cases\.csv:2: the image 'link\.png' lies outside"),
        (
            {"label": "WRONG"},
            r"cases\.csv:2: label: the label must be ERROR or CORRECT \(got a text of 5 .*, not shown\)",
        ),
        ({"id": "case3"}, r"cases\.csv:5: the id 'case3' was used on line 2 already"),
    ],
)
def test_a_bad_row_leaves_nothing_behind(tmp_path, images, change, said):
    Image.new("L", (8, 8)).save(tmp_path / "outside.png")
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    values = rows()
    values[0] |= change
    before = sorted(tmp_path.iterdir())
    path = table(tmp_path, values)
    with pytest.raises(InputError, match=said):
        prepare_table(path, images, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([*before, path])


def test_too_few_patients_and_a_used_output_are_refused(tmp_path, images):
    path = table(tmp_path, rows(patient_id="p"))
    with pytest.raises(InputError, match=r"cannot fill 2 splits: separate patients .*: 1$"):
        prepare_table(path, images, tmp_path / "out")
    with pytest.raises(InputError, match="the train split would be empty: val 1, of 1 in all"):
        prepare_table(table(tmp_path, rows(1)), images, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        prepare_table(path, images, tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == ["kept.txt"]


def test_rows_with_images_need_a_folder(tmp_path, images):
    with pytest.raises(InputError, match="no image directory was given"):
        prepare_table(table(tmp_path, rows(1)), None, tmp_path / "out", val=0)
    with pytest.raises(InputError, match="no such image directory"):
        prepare_table(table(tmp_path, rows(1)), tmp_path / "none", tmp_path / "out", val=0)


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, images, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlx_medlora.cases.image_folder.shutil.copyfile", full)
    with pytest.raises(MedloraError, match="no space left on the disk") as caught:
        prepare_table(table(tmp_path, rows()), images, tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_phantoms_are_disjoint_balanced_and_the_same_for_the_same_seed(tmp_path):
    made = prepare_phantoms(96, tmp_path / "one", val=32, test=16, seed=5, size=48)
    assert {name: part.cases for name, part in made.splits.items()} == {"train": 48, "val": 32, "test": 16}
    dataset = Dataset.open(tmp_path / "one")
    seen: list[str] = []
    for split in dataset.splits():
        cells: dict[tuple[str, bool, str], int] = {}
        for case in dataset.cases(split):
            [image] = dataset.image_files(case)
            seen.append(hashlib.sha256(image.read_bytes()).hexdigest())
            cell = (case.metadata.modality, case.metadata.model_dump()["image_has_finding"], case.label)
            cells[cell] = cells.get(cell, 0) + 1
        assert set(cells.values()) == {made.splits[split].cases // 16}
        assert len(cells) == 16
    assert len(set(seen)) == 96
    prepare_phantoms(96, tmp_path / "two", val=32, test=16, seed=5, size=48)
    assert Dataset.open(tmp_path / "two").fingerprint("val") == dataset.fingerprint("val")
    prepare_phantoms(96, tmp_path / "three", val=32, test=16, seed=6, size=48)
    assert Dataset.open(tmp_path / "three").fingerprint("val") != dataset.fingerprint("val")


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
def test_cells_are_balanced_within_one(count):
    cells = balanced_cells(count, np.random.default_rng(0))
    times = [cells.count(cell) for cell in set(cells)]
    assert len(cells) == count
    assert max(times) - min(times) <= 1


def test_phantoms_need_a_number_that_fills_the_splits(tmp_path):
    with pytest.raises(InputError, match="at least 1, not 0"):
        prepare_phantoms(0, tmp_path / "out")
    with pytest.raises(InputError, match="the train split would be empty: val 2, test 2, of 4"):
        prepare_phantoms(4, tmp_path / "out", val=2, test=2)


def test_a_formula_stays_text_and_reaches_no_spreadsheet(tmp_path):
    """Cells are kept as written; `prepare` writes JSON and Markdown, which no spreadsheet computes."""
    formulas = {"age": "=1+1", "finding": "=cmd|'/C calc'!A0", "treatment": "@SUM(A1)", "id": "+7"}
    row = {"modality": "-xray|<b>", "image": "", "gender": "F", "label": "CORRECT", **formulas}
    names = ["id", "modality", "image", "age", "gender", "finding", "treatment", "label"]
    (tmp_path / "t.csv").write_text(",".join(names) + "\n" + ",".join(f'"{row[name]}"' for name in names))
    prepare_table(tmp_path / "t.csv", None, tmp_path / "out", val=0)
    [case] = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text("utf-8").splitlines()]
    assert case["id"] == "+7"
    assert all(text in case["input"] for text in ("=1+1", "=cmd|'/C calc'!A0", "@SUM(A1)"))
    assert {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()} == {
        ".json",
        ".jsonl",
        ".md",
    }
    assert "| modality: -xray\\|&lt;b> | 1 | 1 |" in (tmp_path / "out/README.md").read_text("utf-8")
