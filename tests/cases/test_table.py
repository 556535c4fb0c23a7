import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_medlora.cases import table_files
from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.schema import Case, Metadata
from mlx_medlora.cases.table import read_table
from mlx_medlora.errors import InputError

HEADER = "id,modality,image,age,gender,finding,treatment,label,error_type,severity,patient_id"
GOOD = "a,MRI,x.png,50,F,Brain mass,Craniotomy,error,overtreatment,High,p1"


def read(path: Path, text: str | bytes):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path, Path)


def message(path: Path, text: str | bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(path, text)
    return str(caught.value)


def test_a_csv_row_becomes_a_case_in_the_cards_shape(tmp_path):
    [source] = read(tmp_path / "t.csv", f"{HEADER}\n{GOOD}\n")
    case = source.case
    patient = "**Patient Information:**\n- Age: 50\n- Gender: F"
    assert case.input == f"{patient}\n\n**Imaging Finding:**\nBrain mass\n\n**Treatment:**\nCraniotomy"
    assert case.output == "ERROR - Overtreatment, the image does not support this therapy"
    known = {"modality": "mri", "error_type": "overtreatment", "severity": "high"}
    known |= {"age": "50", "age_group": "40-64", "gender": "F"}
    assert (case.metadata.model_dump(), case.patient_id) == (known, "p1")
    assert (source.images, source.line) == ((Path("x.png"),), 2)


@pytest.mark.parametrize("text", [f"\ufeff{HEADER}\r\n{GOOD}\r\n", f"\n{HEADER}\r{GOOD}"])
def test_marks_and_line_ends_of_spreadsheets_are_no_fault(tmp_path, text):
    assert read(tmp_path / "t.csv", text)[0].case.id == "a"


def test_semicolons_and_tabs_part_cells_too(tmp_path):
    for name, mark in (("t.csv", ";"), ("t.tsv", "\t")):
        assert read(tmp_path / name, f"{HEADER}\n{GOOD}".replace(",", mark))[0].case.patient_id == "p1"


def test_several_images_no_image_and_empty_optional_cells(tmp_path):
    rows = "a,mri,x.png; y.png,,,Mass,Biopsy,CORRECT,,,\nb,mri,,7,,Mass,Biopsy,ERROR,,,"
    first, second = read(tmp_path / "t.csv", f"{HEADER}\n{rows}")
    assert first.case.image_paths == ("x.png", "y.png")
    assert first.case.input.startswith("**Patient Information:**\n- Not recorded\n\n")
    assert second.case.image_path is None
    assert second.case.metadata.error_type == "unspecified"
    assert second.case.output == "ERROR - Treatment does not match imaging findings"
    assert "Gender" not in second.case.input
    assert {"age", "age_group", "gender"}.isdisjoint(first.case.metadata.model_dump())
    assert "gender" not in second.case.metadata.model_dump()


def test_a_row_without_an_image_speaks_of_none(tmp_path):
    kinds = ("overtreatment", "unnecessary_procedure", "undertreatment", "", "none")
    rows = [f"{n},mri,,50,F,Mass,Biopsy,{'ERROR' if n < 4 else 'CORRECT'},{k},," for n, k in enumerate(kinds)]
    cases = [source.case for source in read(tmp_path / "t.csv", "\n".join([HEADER, *rows]))]
    assert {case.instruction for case in cases} == {
        "You are a medical AI assistant trained to detect clinical errors. Compare the treatment with the "
        "reported finding. Answer ERROR or CORRECT with a short reason."
    }
    for case in cases:
        assert "image" not in case.instruction + case.input + case.output.replace("imaging", "")
    assert cases[0].output == "ERROR - Overtreatment, the report does not support this therapy"
    [shown] = read(tmp_path / "t.csv", f"{HEADER}\n{GOOD}")
    assert "Compare the treatment with the medical image." in shown.case.instruction


@pytest.mark.parametrize(
    ("age", "group"),
    [
        *(("0", "0-17"), ("17.9", "0-17"), ("18", "18-39"), ("64", "40-64"), ("65", "65-79"), ("80", "80+")),
        *(("90+", "80+"), ("056Y", "40-64"), ("56 years", "40-64"), (56, "40-64")),
        *(("006M", None), ("adult", None), ("131", None), ("-3", None), ("40-50", None)),
    ],
)
def test_an_age_has_its_group(tmp_path, age, group):
    (tmp_path / "t.json").write_text(json.dumps([row(age=age), row(id="own", age=age, age_group="old")]))
    first, second = (source.case for source in read_table(tmp_path / "t.json", Path))
    assert first.metadata.model_dump()["age"] == str(age)
    assert first.metadata.model_dump().get("age_group") == group
    assert second.metadata.model_dump()["age_group"] == "old"
    assert f"- Age: {age}" in first.input


def test_ages_and_genders_change_nothing_that_a_model_reads(tmp_path):
    [told] = read(tmp_path / "t.csv", f"{HEADER}\n{GOOD}")
    bare = told.case.model_copy(update={"metadata": Metadata(modality="mri")})
    assert conversation(told.case, with_answer=True) == conversation(bare, with_answer=True)
    assert Case.model_validate(bare.row()) == bare  # a dataset of before


def test_semicolons_part_images_in_a_quoted_cell_of_a_table_parted_by_them(tmp_path):
    text = f"{HEADER}\n{GOOD}".replace(",", ";").replace("x.png", '"x.png;y.png"')
    assert read(tmp_path / "t.csv", text)[0].case.image_paths == ("x.png", "y.png")


def test_a_cell_may_span_lines_and_later_lines_still_count_right(tmp_path):
    text = f'{HEADER}\na,mri,,50,F,"Mass,\nlarge",Biopsy,CORRECT,,,\nb,mri,,50,F,Mass,Biopsy,NO,,,\n'
    said = message(tmp_path / "t.csv", text)
    told = "label: the label must be ERROR or CORRECT (got a text of 2 characters, not shown)"
    assert said == f"{tmp_path / 't.csv'}:4: {told}"


def test_all_bad_rows_are_listed_together(tmp_path):
    rows = [GOOD, GOOD, "c,mri,x.png,50,F,,Biopsy,CORRECT,,,", "d,mri", "e,mri,../x.png,5,F,M,B,CORRECT,,,"]
    said = message(tmp_path / "t.csv", "\n".join([HEADER, *rows]))
    assert said.splitlines() == [
        f"{tmp_path / 't.csv'}: 4 rows are wrong:",
        "  line 3: the id 'a' was used on line 2 already",
        "  line 4: finding is missing",
        "  line 5: the row has 2 cells, the header 11",
        "  line 6: the image path '../x.png' leaves its directory",
    ]


def test_a_long_list_of_bad_rows_is_cut(tmp_path):
    said = message(tmp_path / "t.csv", "\n".join([HEADER, *["x,y"] * 50]))
    assert said.splitlines()[0].endswith("50 rows are wrong:")
    assert said.splitlines()[-1] == "  and 30 more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", ": the table has no cases"),
        (HEADER, ": the table has no cases"),
        (
            HEADER.replace("finding,", "") + "\n" + GOOD.replace("Brain mass,", ""),
            "lacks the column 'finding'",
        ),
        (HEADER.replace("image,", "") + "\n" + GOOD.replace("x.png,", ""), "lacks the column 'image'"),
        (HEADER.replace("patient_id", "patientid") + "\n" + GOOD, "did you mean 'patient_id'?"),
        (HEADER.replace("gender", "age") + "\n" + GOOD, ":1: the header names the column 'age' twice"),
        (HEADER.replace("gender", "") + "\n" + GOOD, ":1: the header has a column without a name"),
        (HEADER + "\n" + GOOD.replace("Craniotomy", '"Cranio'), "not valid CSV"),
        (HEADER + "\n" + GOOD.replace("error,", "CORRECT,"), ":2: a CORRECT case can have no error_type"),
        (HEADER + "\n" + GOOD.replace("High", "awful"), ":2: severity: Input should be 'none', 'low'"),
        (HEADER.encode() + b"\n\xe4", ":2: not UTF-8 text"),
        (HEADER + "\na," + "x" * 200_000, "not valid CSV: field larger"),
    ],
)
def test_a_bad_csv_is_explained(tmp_path, text, said):
    assert said in message(tmp_path / "t.csv", text)


def row(**change: object) -> dict[str, object]:
    known = {"id": 7, "modality": "mri", "finding": "Mass", "treatment": "Biopsy", "label": "CORRECT"}
    return {**known, **change}


def test_json_and_jsonl_take_columns_or_the_cards_form(tmp_path):
    card = {
        "id": "c",
        "instruction": "I",
        "input": "In",
        "output": "ERROR - no",
        "image_file": "x.png",
        "metadata": {"modality": "us", "k": 1},
    }
    rows = [row(age=50, image=["x.png", "y.png"], note="kept"), card]
    for name, text in (("t.json", json.dumps(rows, indent=1)), ("t.jsonl", "\n".join(map(json.dumps, rows)))):
        first, second = (source.case for source in read(tmp_path / name, text))
        assert (first.id, first.image_paths) == ("7", ("x.png", "y.png"))
        assert "- Age: 50" in first.input
        assert first.metadata.model_dump()["note"] == "kept"
        assert (second.input, second.output, second.image_paths) == ("In", "ERROR - no", ("images/x.png",))
        assert second.metadata.model_dump()["k"] == 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (row(finding=["Mass"]), "finding: Input should be a valid string (got a list of 1, not shown)"),
        (row(id=True), "id: Input should be a valid string (got True)"),
        (row(image={"a": 1}), "image: expected a file name"),
        (row(image=["x.png", 3]), "image: expected a file name"),
        (row(label=0), "label: the label must be ERROR or CORRECT (got a number, not shown)"),
        (
            row(label="unsure"),
            "label: the label must be ERROR or CORRECT (got a text of 6 characters, not shown)",
        ),
        (row(images="x.png"), "unknown column 'images'; did you mean 'image'?"),
        (5, "expected an object, got int"),
        ("text", "expected an object, got str"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_line(tmp_path, value, said):
    text = "[\n" + json.dumps(row(id="first")) + ",\n\n  " + json.dumps(value) + "\n]"
    spoken = message(tmp_path / "t.json", text)
    assert said in spoken
    assert spoken.startswith(f"{tmp_path / 't.json'}:{1 if 'column' in said else 4}: ")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.json", "[{]", ":1: not valid JSON"),
        ("t.json", '[\n{"id": 1,\n}]', ":3: not valid JSON"),
        ("t.json", "{}", ":1: expected an array of cases, got dict"),
        ("t.json", "[]", ": the table has no cases"),
        ("t.jsonl", "{}\n{", ":2: not valid JSON"),
        ("t.xlsx", "PK", "the table's kind '.xlsx' is not known; it may be .csv"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, name, text, said):
    assert said in message(tmp_path / name, text)


def test_a_missing_table_and_a_directory(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "none.csv", Path)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        read_table(tmp_path / "d.csv", Path)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_any_text_survives_csv_and_json_alike(tmp_path_factory, texts):
    import csv

    base = tmp_path_factory.getbasetemp()
    rows = [
        row(id=str(i), image="", age="5", gender="F", finding=f, treatment=t)
        for i, (f, t) in enumerate(texts)
    ]
    with (base / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (base / "t.json").write_text(json.dumps(rows), "utf-8")
    from_csv, from_json = (read_table(base / name, Path) for name in ("t.csv", "t.json"))
    assert [source.case for source in from_csv] == [source.case for source in from_json]
    for source, (finding, treatment) in zip(from_csv, texts, strict=True):
        assert finding.strip() in source.case.input
        assert treatment.strip() in source.case.input


def test_a_table_that_never_ends_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "MAX_ROWS", 3)
    path = tmp_path / "cases.jsonl"
    path.write_text('{"a": 1}\n' * 4)
    with pytest.raises(InputError, match=r"cases\.jsonl:4: the table has more than 3 rows"):
        table_files.read_rows(path)


def test_a_table_that_is_not_there_is_called_that(tmp_path):
    for path, said in ((tmp_path, "is not a file"), (tmp_path / "phantoms", "no such file")):
        with pytest.raises(InputError, match=said):
            read_table(path, Path)
