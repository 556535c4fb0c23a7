import pytest

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.schema import parse_case
from mlx_medlora.errors import InputError

ROW = {
    "id": "a",
    "instruction": "Look.",
    "input": "Case",
    "output": "ERROR - wrong drug",
    "metadata": {"modality": "XRay", "note": [1, 2]},
}


def test_a_row_keeps_its_fields_and_unknown_metadata():
    case = parse_case({**ROW, "image_file": "x.png"}, "data/train.jsonl", 7)
    assert (case.label, case.where, case.line) == ("ERROR", "train.jsonl:7", 7)
    assert case.image_paths == ("images/x.png",)
    assert case.row()["metadata"] == {
        "modality": "xray",
        "error_type": "none",
        "severity": "none",
        "note": [1, 2],
    }
    assert parse_case(case.row(), "t", 1).row() == case.row()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": "MAYBE - who knows"}, "output: the answer must begin with 'ERROR - ' or 'CORRECT - '"),
        ({"output": "ERROR"}, "output: the answer must begin"),
        ({"output": "CORRECTLY - yes"}, "output: the answer must begin"),
        ({"input": 7}, "input: Input should be a valid string (got a number, not shown)"),
        ({"input": "  "}, "input: String should have at least 1 character"),
        ({"id": None}, "id: Input should be a valid string (got None)"),
        (
            {"image_path": 3},
            "image_path: expected a path, or a list of at least one path (got a number, not shown)",
        ),
        ({"image_path": []}, "image_path: expected a path, or a list of at least one path (got [])"),
        ({"image_path": ["a.png", 3]}, "image_path: expected a path"),
        ({"image_path": "../secret.png"}, "image_path: the image path '../secret.png' leaves its directory"),
        ({"image_path": "/etc/passwd"}, "the image path '/etc/passwd' is absolute"),
        ({"image_path": "C:\\x.png"}, "is absolute"),
        ({"image_path": "a\\..\\..\\x.png"}, "leaves its directory"),
        ({"image_file": "../x.png"}, "leaves its directory"),
        ({"metadata": {}}, "metadata.modality is missing"),
        (
            {"metadata": {"modality": "mri", "severity": "bad"}},
            "metadata.severity: Input should be",
        ),
        ({"image_pth": "x.png"}, "unknown field 'image_pth'"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(change, said):
    with pytest.raises(InputError) as caught:
        parse_case({**ROW, **change}, "train.jsonl", 4)
    assert str(caught.value).startswith("train.jsonl:4: ")
    assert said in str(caught.value)


def test_all_faults_of_a_row_are_told_at_once():
    with pytest.raises(InputError, match=r"input is missing; output: the answer"):
        parse_case({**{k: v for k, v in ROW.items() if k != "input"}, "output": "?"}, "t", 1)


def test_a_row_that_is_no_object_is_refused():
    with pytest.raises(InputError, match=r"t:2: expected an object, got list"):
        parse_case([1], "t", 2)


def test_a_conversation_shows_the_images_before_the_text_and_the_answer_only_when_asked():
    case = parse_case({**ROW, "image_path": ["images/a.png", "images/b.png"]}, "t", 1)
    system, user = conversation(case, with_answer=False)
    assert system == {"role": "system", "content": [{"type": "text", "text": "Look."}]}
    assert user["content"] == [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Case"}]
    *same, answer = conversation(case, with_answer=True)
    assert same == [system, user]
    assert answer == {"role": "assistant", "content": [{"type": "text", "text": "ERROR - wrong drug"}]}


def test_a_text_only_conversation_has_no_image():
    assert conversation(parse_case(ROW, "t", 1), False)[1]["content"] == [{"type": "text", "text": "Case"}]
