"""A sentence planted in every field of a case comes up in no message, unless it is asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_medlora import privacy
from mlx_medlora.cli.app import app, run
from mlx_medlora.cli.errors import say, trace
from mlx_medlora.training.trainer import Trainer

SECRET = "Zebra quintuplets seen"
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
]
READING = ("prepare", "plan", "train", "eval", "generate", "fuse", "parity", "bench")
TINY = ("--model", "tiny-medgemma")
Said = tuple[int, str]


@pytest.fixture(params=[False, True], ids=["quiet", "debug"])
def do(
    request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """do(*words): run a command line, with and without MEDLORA_DEBUG; its status, and all that it printed."""
    if request.param:
        monkeypatch.setenv("MEDLORA_DEBUG", "1")

    def call(*words: object) -> Said:
        status = run([str(word) for word in words])
        said = capfd.readouterr()
        return status, said.out + said.err

    return call


def table_row(**change: object) -> dict[str, object]:
    row = {
        "id": "c1",
        "modality": "xray",
        "image": "a.png",
        "age": "50",
        "gender": "female",
        "finding": SECRET,
    }
    return (
        row
        | {"treatment": SECRET, "label": "ERROR", "error_type": "overtreatment", "severity": "low"}
        | change
    )


def as_csv(row: dict[str, object]) -> str:
    return f"{','.join(COLUMNS)}\n{','.join(str(row[name]) for name in COLUMNS)}\n"


def case_row(**change: object) -> dict[str, Any]:
    texts = {name: f"{SECRET} {name}" for name in ("instruction", "input")}
    known = {"modality": "xray", "note": SECRET}
    return {
        "id": "c1",
        **texts,
        "output": f"ERROR - {SECRET}",
        "patient_id": SECRET,
        "metadata": known,
    } | change


TABLES = {
    **{
        f"{name} is a sentence": ("csv", as_csv(table_row(**{name: SECRET})))
        for name in ("label", "severity", "image")
    },
    "correct with an error type": ("csv", as_csv(table_row(label="CORRECT", error_type=SECRET))),
    "a cell too many": ("csv", as_csv(table_row()).rstrip() + f",{SECRET}\n"),
    "a quote never closed": ("csv", as_csv(table_row()) + f'c2,"{SECRET}\n'),
    "text behind a quote": ("csv", as_csv(table_row()) + f'c2,"{SECRET}"{SECRET}\n'),
    "no header": ("csv", f"c1,{SECRET},{SECRET},x\n"),
    "a header that is a case": ("csv", f"{SECRET},{SECRET}\n"),
    "not UTF-8": ("csv", as_csv(table_row()).encode() + b"\xff" + SECRET.encode()),
    "an id twice": ("csv", as_csv(table_row()) + ",".join(str(table_row()[name]) for name in COLUMNS)),
    **{
        f"{name} is a list": ("json", json.dumps([table_row(**{name: [SECRET]})]))
        for name in COLUMNS
        if name != "image"
    },
    "image is an object": ("json", json.dumps([table_row(image={SECRET: SECRET})])),
    "a field nobody knows": ("json", json.dumps([case_row(**{SECRET: SECRET})])),
    "a field given twice": ("json", f'[{{"{SECRET}": 1, "{SECRET}": 2}}]'),
    "a list of sentences": ("json", json.dumps([SECRET, [SECRET]])),
    "cut off": ("jsonl", json.dumps(table_row())[:-9]),
    "a sentence": ("jsonl", json.dumps(SECRET)),
    "a bare sentence": ("jsonl", SECRET),
    "a wrong escape": ("jsonl", f'{{"finding": "{SECRET}\\x"}}'),
    "not a number": ("jsonl", f'{{"finding": "{SECRET}", "age": NaN}}'),
}
ROWS = {
    **{
        f"{name} is a list": case_row(**{name: [SECRET]})
        for name in ("id", "instruction", "input", "output", "patient_id")
    },
    **{f"{name} is an object": case_row(**{name: {SECRET: SECRET}}) for name in ("input", "image_path")},
    "the answer is no answer": case_row(output=SECRET),
    "metadata is a sentence": case_row(metadata=SECRET),
    "no modality": case_row(metadata={"note": SECRET}),
    "severity is a sentence": case_row(metadata={"modality": "xray", "severity": SECRET}),
    "modality is a list": case_row(metadata={"modality": [SECRET]}),
    "a field nobody knows": case_row(**{SECRET: SECRET}),
    "an image that is not there": case_row(image_path=SECRET),
    "an image outside": case_row(image_path=f"../{SECRET}"),
    "an absolute image": case_row(image_path=f"/{SECRET}"),
    "a control token": case_row(input=f"{SECRET} <start_of_turn>"),
    "an unpaired surrogate": case_row(input=f"{SECRET} \ud800"),
    "a text as long as a book": case_row(input=f"{SECRET} " * 9000),
}


def write_table(root: Path, kind: str, text: str | bytes) -> tuple[object, ...]:
    (root / "scans").mkdir()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(root / "scans" / "a.png")
    path = root / f"cases.{kind}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ("prepare", path, "--images", root / "scans", "--output", root / "out")


def write_rows(root: Path, *rows: object) -> Path:
    root.mkdir()
    for split in ("train", "val"):
        text = "".join(json.dumps(row) + "\n" for row in rows).replace('"c1"', f'"{split}"')
        (root / f"{split}.jsonl").write_text(text)
    return root


@pytest.mark.parametrize("name", TABLES)
def test_prepare_says_where_and_not_what(name: str, do: Callable[..., Said], tmp_path: Path) -> None:
    line = write_table(tmp_path, *TABLES[name])
    status, said = do(*line)
    assert status == 2, said
    assert f"cases.{TABLES[name][0]}" in said
    assert SECRET not in said
    assert "Zebra" not in said
    status, said = do(*line, "--verbose-cases")
    assert status == 2
    status, said = do(*line)  # the flag is of one command
    assert SECRET not in said


def commands(data: Path, out: Path) -> dict[str, tuple[object, ...]]:
    return {
        "plan": ("plan", *TINY, "--data", data, "--tflops", "1"),
        "train": ("train", *TINY, "--data", data, "--output", out, "--epochs", 1, "--rank", 1),
        "eval": ("eval", *TINY, "--data", data, "--output", out),
        "parity": ("parity", *TINY, "--data", data),
    }


@pytest.mark.parametrize("name", ROWS)
def test_commands_that_read_a_dataset_say_where_and_not_what(
    name: str, do: Callable[..., Said], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "data", ROWS[name])
    for command, line in commands(data, tmp_path / "out").items():
        if command == "parity" and name == "a text as long as a book":
            continue  # takes long, and nothing fails
        status, said = do(*line)
        assert SECRET not in said, command
        assert "Zebra" not in said, command
        assert status in (1, 2) or (command, name) == ("plan", "a text as long as a book"), (command, said)


def test_every_command_that_reads_cases_has_the_flag(do: Callable[..., Said]) -> None:
    for command in app.registered_commands:
        _, said = do(command.name, "--help")
        assert ("--verbose-cases" in said) is (command.name in READING), command.name


def test_verbose_cases_shows_the_value(do: Callable[..., Said], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", ROWS["severity is a sentence"])
    for line in commands(data, tmp_path / "out").values():
        status, said = do(*line)
        assert f"(got a text of {len(SECRET)} characters, not shown)" in said
        assert "--verbose-cases shows the values" in said
        status, said = do(*line, "--verbose-cases")
        assert status == 2
        assert ".jsonl:1: metadata.severity: " in said
        assert f"(got '{SECRET}')" in said


@pytest.mark.parametrize("kind", ["text", "cut", "chunk"])
def test_no_byte_of_an_image_is_printed(kind: str, do: Callable[..., Said], tmp_path: Path) -> None:
    line = write_table(tmp_path, "csv", as_csv(table_row()))
    image = tmp_path / "scans" / "a.png"
    content = image.read_bytes()
    image.write_bytes(
        {
            "text": SECRET.encode(),
            "cut": content[:50],
            "chunk": content[:33] + b"\0\0\0\x08Zebr" + content[41:],
        }[kind]
    )
    status, said = do(*line)
    assert status == 2
    assert "Zebr" not in said
    assert "a.png" in said


def test_a_strangers_chat_template_cannot_print_a_case(
    do: Callable[..., Said], tmp_path: Path, tiny_medgemma: Path
) -> None:
    shutil.copytree(tiny_medgemma, tmp_path / "model")
    raising = "{{ raise_exception(messages | string) }}"
    (tmp_path / "model" / "chat_template.jinja").write_text(raising)
    data = write_rows(tmp_path / "data", case_row())
    lines = commands(data, tmp_path / "out")
    asked = ("generate", "--prompt", SECRET)
    for line in (lines["plan"], lines["train"], lines["eval"], asked):
        words = [tmp_path / "model" if word == "tiny-medgemma" else word for word in line]
        words += ["--model", tmp_path / "model"] if line is asked else []
        status, said = do(*words)
        assert status in (1, 2)
        assert SECRET not in said


def test_an_error_nobody_thought_of_keeps_its_message_back(
    do: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def burst(self: Trainer) -> None:
        secret = SECRET
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(f"no place for {secret}") from error

    monkeypatch.setattr(Trainer, "run", burst)
    line = commands(write_rows(tmp_path / "data", case_row()), tmp_path / "out")["train"]
    status, said = do(*line)
    assert status == 1
    assert "internal error: ValueError: its message is not shown" in said
    assert SECRET not in said
    status, said = do(*line, "--verbose-cases")
    assert f"internal error: ValueError: no place for {SECRET}" in said


def test_a_traceback_tells_places_and_our_own_words_alone() -> None:
    def inner() -> None:
        patient = SECRET
        raise LookupError(patient)

    privacy.cases_read()
    try:
        inner()
    except LookupError as error:
        told = trace(error)
        say(error)
    assert "test_case_text.py" in told
    assert "raise LookupError(patient)" in told
    assert told.endswith("LookupError: (not shown)")
    assert SECRET not in told


def test_before_any_case_is_read_messages_are_whole() -> None:
    assert "LookupError: gone" in trace(LookupError("gone"))


def test_what_succeeds_prints_no_case_either(do: Callable[..., Said], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data", case_row(), case_row(id="c2", output=f"CORRECT - {SECRET}"))
    (data / "val.jsonl").write_text((data / "val.jsonl").read_text().replace('"c2"', '"v2"'))
    lines = commands(data, tmp_path / "out")
    for name in ("plan", "train"):
        status, said = do(*lines[name])
        assert status == 0, said
        assert SECRET not in said
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(SECRET.encode() in content for content in written)
    status, said = do("eval", *TINY, "--data", data, "--output", tmp_path / "run", "--method", "generate")
    assert status == 0, said
    assert SECRET not in said


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("chest.png", "'chest.png'"),
        ("scan 3 left.jpeg", "'scan 3 left.jpeg'"),
        ("c17", "'c17'"),
        (SECRET, f"(a text of {len(SECRET)} characters, not shown)"),
        ("two\nlines.png", "(a text of 13 characters, not shown)"),
    ],
)
def test_names_are_told_from_sentences(name: str, told: str) -> None:
    assert privacy.named(name) == told


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "image file is truncated (3 bytes not processed)",
            "image file is truncated (3 bytes not processed)",
        ),
        (f"broken PNG file (chunk {SECRET.encode()!r})", "broken PNG file (chunk '...')"),
        (f"bad \"{SECRET}\" and '{SECRET}'", "bad '...' and '...'"),
    ],
)
def test_a_librarys_reason_loses_what_it_quotes(message: str, told: str) -> None:
    assert privacy.reason(ValueError(message)) == told
