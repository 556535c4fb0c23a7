import pytest

from mlx_medlora.evaluation.results import GateResult, Measure
from mlx_medlora.report import words


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("a\r\nb\tc", "a\nb\tc"),
        ("x\u202ey\u2066z", "x⟨U+202E⟩y⟨U+2066⟩z"),
        ("bell \x07 nul \x00", "bell ⟨U+0007⟩ nul ⟨U+0000⟩"),
        ("half \ud800", "half \ufffd"),
        ("שלום é 漢", "שלום é 漢"),
    ],
)
def test_plain(given: str, wanted: str) -> None:
    assert words.plain(given) == wanted
    words.plain(given).encode()


def test_names_and_numbers() -> None:
    assert words.last_part("/home/dr/models/medgemma") == "medgemma"
    assert words.last_part("C:\\Users\\dr\\runs\\first") == "first"
    assert words.last_part("google/medgemma-4b-it") == "medgemma-4b-it"
    assert words.last_part("base/") == "base"
    assert words.short("a  b\nc" + "d" * 100, 10) == "a b cdddd…"
    assert words.number({"a": [1, 0.1 + 0.2, None, True]}) == "a: 1, 0.3, none, yes"
    assert words.number(float("nan")) == "not a number"
    assert words.demand("tnr") == "TNR (errors found)"
    assert words.title("false_flag_rate") == "False flag rate"


def test_figures() -> None:
    share = Measure(name="accuracy", value=0.9, n=10, meaning="", interval=(0.5, 0.95))
    assert (words.figure(share), words.interval(share)) == ("90.0\xa0%", "50.0 to 95.0\xa0%")
    rate = share.model_copy(update={"name": "auroc"})
    assert (words.figure(rate), words.interval(rate)) == ("0.900", "0.500 to 0.950")
    absent = Measure(name="mcc", value=None, n=1, meaning="", reason="one case")
    assert (words.figure(absent), words.interval(absent), words.points(absent)) == (
        "n/a",
        "no interval",
        "n/a",
    )
    assert words.points(share) == "+90.0 points (+50.0 to +95.0)"
    gate = GateResult(
        measure="accuracy",
        group={"modality": "mri"},
        rule="at least 85 %",
        at_least=0.85,
        under=None,
        value=0.9,
        interval=None,
        n=1,
        verdict="undecided",
        reason="",
        needed=None,
    )
    assert words.group_name(gate) == "modality mri"
