import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_medlora.errors import InputError
from mlx_medlora.jsontext import parse_element, parse_json

PATH = Path("x.json")
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
VALUES = st.recursive(
    LEAVES | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20
)


@given(VALUES, st.booleans())
def test_sound_json_is_what_python_reads(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text, PATH) == json.loads(text)
    assert parse_element(text, 0, PATH, 1) == (json.loads(text), len(text))


def test_the_depth_that_is_allowed():
    assert parse_json("[" * 32 + "]" * 32, PATH)
    for text in ("[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33):
        with pytest.raises(InputError, match="nested too deeply"):
            parse_json(text, PATH)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' stands twice"),
        ("[NaN]", "NaN is not"),
        ("[1e400]", "out of range"),
        ('["\\u0000"]', "u0000"),
        ('["\\ud83d"]', "surrogate"),
        ("[" + "1" * 200 + "]", "200 digits"),
        ("[1,\n2,\n]", "x.json:3: not valid JSON"),
    ],
)
def test_what_the_standard_forbids_or_nobody_needs(text, said):
    with pytest.raises(InputError, match=said):
        parse_json(text, PATH)


def test_a_pair_of_surrogates_is_a_character():
    assert parse_json('"\\ud83e\\ude7b"', PATH) == "🩻"
