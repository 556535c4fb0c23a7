import pytest

from mlx_medlora.evaluation.answers import parse_answer, thinking_ids, without_thinking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ERROR - Surgery for a normal scan", "ERROR"),
        ("CORRECT - Treatment matches imaging findings", "CORRECT"),
        ("  \n\tERROR - x", "ERROR"),
        ("ERROR", "ERROR"),
        ("CORRECT\nbecause", "CORRECT"),
        ("ERROR: wrong drug", "ERROR"),
        ("CORRECT.", "CORRECT"),
        ("ERROR — wrong side", "ERROR"),
        ("ERROR- no room before the dash", "ERROR"),
        ("", None),
        ("   ", None),
        ("error - lower case", None),
        ("ERRORS - two", None),
        ("CORRECTED - it", None),
        ("INCORRECT - no", None),
        ("ERROR-free treatment", None),
        ("ERROR or CORRECT - hard to say", None),
        ("CORRECT in part, ERROR in part", None),
        ("ERROR/CORRECT", None),
        ("CORRECT, but for one ERROR", None),
        ("**ERROR** - decorated", None),
        ("The answer is ERROR - late", None),
        ("No ERROR - none", None),
        ("- ERROR", None),
    ],
)
def test_only_a_leading_verdict_counts(text: str, expected: str | None) -> None:
    assert parse_answer(text) == expected


@pytest.mark.parametrize(
    ("ids", "kept"),
    [
        ([100, 7, 8, 101, 9], [9]),
        ([9, 10], [9, 10]),
        ([100, 7, 8], []),  # cut while thinking: nothing was answered
        ([1, 100, 2, 101, 3, 100, 4, 101], [1, 3]),
        ([101, 5], [5]),
    ],
)
def test_thinking_is_left_out(ids: list[int], kept: list[int]) -> None:
    assert without_thinking(ids, (100, 101)) == kept


def test_a_tokenizer_without_thinking_loses_nothing() -> None:
    assert without_thinking([100, 7, 101], None) == [100, 7, 101]


class Vocabulary:
    def __init__(self, tokens: dict[str, int]) -> None:
        self.tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return self.tokens


def test_the_markers_are_found_by_name() -> None:
    assert thinking_ids(Vocabulary({"<unused94>": 100, "<unused95>": 101})) == (100, 101)
    assert thinking_ids(Vocabulary({"<unused94>": 100})) is None
