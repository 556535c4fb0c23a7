"""General question-answer rows: read strictly, and the project's own set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_medlora.cases.questions import GENERAL, fingerprint, read_questions
from mlx_medlora.errors import InputError


def test_the_own_set_is_forty_different_questions_under_a_licence() -> None:
    rows = read_questions(GENERAL)
    assert json.loads(GENERAL.read_text().splitlines()[0])["license"] == "Apache-2.0"
    assert len(rows) == 40
    assert len({row.asked for row in rows}) == 40
    assert all(10 < len(row.text) < 120 and len(row.output) < 200 for row in rows)


def test_instruction_and_input_are_one_turn_and_either_may_be_absent(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": "Answer briefly.", "input": "Why?", "output": "So."},
        {"instruction": "Name a bone.", "input": "", "output": "Ulna.", "source": "own"},
        {"input": "Name a vein.", "output": "Cava."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_questions(path)
    assert [row.text for row in found] == ["Answer briefly.\n\nWhy?", "Name a bone.", "Name a vein."]
    assert [row.line for row in found] == [1, 2, 3]
    turns = found[0].conversation(with_answer=True)
    assert [turn["role"] for turn in turns] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Why?"}, "output is missing"),
        ({"input": " ", "output": "So."}, "it needs an instruction or an input"),
        (
            {"input": "Why?", "output": "So.", "image_path": "a.png"},
            r"the row: it has an image \(image_path\)",
        ),
        ({"input": 3, "instruction": "Why?", "output": "So."}, "input: Input should be a valid string"),
        ([1], "expected an object, got list"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(row: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"input": "Why?", "output": "So."}) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{message}"):
        read_questions(path)


def test_a_file_of_a_licence_alone_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"license": "MIT"}\n')
    with pytest.raises(InputError, match="no question-answer rows"):
        read_questions(path)


def test_the_fingerprint_follows_words_and_order_and_not_layout(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"input": "Why?", "output": "So."}, {"input": "Who?", "output": "He."}]

    def hashed(*lines: str) -> str:
        path.write_text("".join(f"{line}\n" for line in lines))
        return fingerprint(read_questions(path))

    plain = hashed(*(json.dumps(row) for row in rows))
    assert hashed(*(json.dumps(row | {"id": 1}, indent=None, separators=(",", ":")) for row in rows)) == plain
    assert hashed(*(json.dumps(row) for row in reversed(rows))) != plain
    assert hashed(json.dumps(rows[0]), json.dumps(rows[1] | {"output": "She."})) != plain
