import json
import os
import shutil

import pytest
from PIL import Image

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.errors import InputError

ROW = {
    "id": "a",
    "instruction": "Look.",
    "input": "Case",
    "output": "CORRECT - fits",
    "image_path": "images/x.png",
    "metadata": {"modality": "mri"},
}


@pytest.fixture
def root(tmp_path):
    directory = tmp_path / "data"
    (directory / "images").mkdir(parents=True)
    Image.new("L", (8, 8), 9).save(directory / "images/x.png")
    write(directory, ROW)
    return directory


def write(directory, *rows, split="train"):
    (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_a_dataset_reads_its_splits_and_images(root):
    write(root, {**ROW, "id": "b", "image_path": None}, split="test")
    dataset = Dataset.open(root)
    assert dataset.splits() == ("train", "test")
    [case] = dataset.cases("train")
    assert dataset.image_files(case) == (root.resolve() / "images/x.png",)
    assert dataset.cases("test")[0].image_paths == ()


def test_blank_lines_and_a_byte_order_mark_are_no_fault(root):
    text = f"\ufeff{json.dumps(ROW)}\r\n\r\n{json.dumps({**ROW, 'id': 'b'})}\r\n"
    (root / "train.jsonl").write_bytes(text.encode())
    assert [case.where for case in Dataset.open(root).cases("train")] == ["train.jsonl:1", "train.jsonl:3"]


@pytest.mark.parametrize(
    ("content", "line", "said"),
    [
        (b"", None, "the split 'train' is empty"),
        (b"\n\n", None, "the split 'train' is empty"),
        (b'{"id": "a"', 1, "not valid JSON"),
        (b"\n[1]\n", 2, "expected an object, got list"),
        (b'{"id": NaN}', 1, "not valid JSON: NaN is not a JSON value"),
        (b"\n\xff\xfe", 2, "not UTF-8 text"),
        (b"[" * 100_000, 1, "nested too deeply"),
        (
            json.dumps({**ROW, "image_path": "images/none.png"}).encode(),
            1,
            "'images/none.png' of case 'a' does not",
        ),
        (json.dumps({**ROW, "image_path": "x" * 5000}).encode(), 1, "does not exist"),
        (json.dumps({**ROW, "image_path": "images"}).encode(), 1, "does not exist"),
        (json.dumps({**ROW, "image_path": "images/../../x.png"}).encode(), 1, "leaves its directory"),
        (json.dumps({**ROW, "output": "PERHAPS - no"}).encode(), 1, "must begin with 'ERROR - '"),
        ((json.dumps(ROW) + "\n" + json.dumps(ROW)).encode(), 2, "the id 'a' was used on line 1 already"),
    ],
)
def test_a_bad_file_is_named_with_its_line(root, content, line, said):
    (root / "train.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        Dataset.open(root).cases("train")
    place = root / "train.jsonl"
    assert str(caught.value).startswith(f"{place}: " if line is None else f"{place}:{line}: ")
    assert said in str(caught.value)


def test_a_link_out_of_the_dataset_is_refused(root, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "outside.png")
    (root / "images/x.png").unlink()
    os.symlink(tmp_path / "outside.png", root / "images/x.png")
    with pytest.raises(
        InputError, match=r"train\.jsonl:1: the image 'images/x\.png' lies outside the dataset"
    ):
        Dataset.open(root).cases("train")


def test_a_loop_of_links_is_a_missing_image(root):
    (root / "images/x.png").unlink()
    os.symlink("x.png", root / "images/x.png")
    with pytest.raises(InputError, match=r"train\.jsonl:1: .*does not exist"):
        Dataset.open(root).cases("train")


def test_an_unknown_split_names_those_there_are(root):
    with pytest.raises(InputError, match="no split 'val'") as caught:
        Dataset.open(root).cases("val")
    assert caught.value.hint == "Splits of this dataset: train."


def test_what_is_no_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such dataset directory"):
        Dataset.open(tmp_path / "none")
    with pytest.raises(InputError, match=r"has none of train\.jsonl, val\.jsonl, test\.jsonl"):
        Dataset.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="this is a file"):
        Dataset.open(tmp_path / "file")


def test_the_fingerprint_follows_rows_and_pixels_and_not_the_place(root, tmp_path):
    first = Dataset.open(root).fingerprint("train")
    shutil.copytree(root, tmp_path / "copy")
    assert Dataset.open(tmp_path / "copy").fingerprint("train") == first
    Image.new("L", (8, 8), 10).save(tmp_path / "copy/images/x.png")
    assert Dataset.open(tmp_path / "copy").fingerprint("train") != first
    write(root, {**ROW, "input": "Another"})
    assert Dataset.open(root).fingerprint("train") != first


def test_an_id_in_two_splits_is_named_with_its_line(root):
    write(root, {**ROW, "id": "b"}, ROW, split="test")
    with pytest.raises(InputError, match=r"test\.jsonl:2: the id 'a' is in the split 'train' too"):
        Dataset.open(root).refuse_shared_ids()


def test_a_split_that_is_no_file_is_named(root):
    (root / "val.jsonl").mkdir()
    assert Dataset.open(root).splits() == ("train", "val")
    with pytest.raises(InputError, match=r"val\.jsonl: is a directory"):
        Dataset.open(root).cases("val")
