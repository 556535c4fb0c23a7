"""The verdict on looking, from passes whose answers are given."""

import json
from itertools import cycle, islice

import pytest

from mlx_medlora.evaluation.dependence import _evidence, _Pass
from mlx_medlora.evaluation.results import Dependence, Measure, Prediction
from mlx_medlora.evaluation.saying import Evidence, conclude, warnings_of

OTHER = "the image of a case with the other right answer"
E, C = "ERROR", "CORRECT"


def gain(name: str, value: float, low: float, high: float) -> Measure:
    return Measure(name=name, value=value, n=100, meaning="", interval=(low, high))


Span = tuple[float, float] | None


def evidence(image: Span, this: Span, text: Span, words: Span, unmoved: bool = False) -> Evidence:
    spans = {"from_image": image, "from_this_image": this, "from_text": text, "words_gain": words}
    known = {
        name: Measure(name=name, value=None, n=0, meaning="", reason="no")
        if span is None
        else gain(name, sum(span) / 2, *span)
        for name, span in spans.items()
    }
    others = (
        "accuracy", "accuracy_blanked", "accuracy_swapped", "accuracy_without_finding",
        "accuracy_image_alone", "label_prior", "changed_blanked", "changed_swapped", "words_accuracy",
    )  # fmt: skip
    known |= {name: gain(name, 0.5, 0.4, 0.6) for name in others}
    return Evidence(known, unmoved, (), "ERROR")


NONE, WIDE, MUCH, LITTLE = (-0.02, 0.02), (-0.2, 0.3), (0.3, 0.5), (0.01, 0.08)


@pytest.mark.parametrize(
    ("given", "looks", "hardly", "shortcut"),
    [
        (evidence(MUCH, MUCH, NONE, NONE), True, False, False),
        (evidence(MUCH, (0.01, 0.2), NONE, NONE), True, False, False),
        (evidence(MUCH, None, NONE, NONE), None, False, False),  # one image serves all cases
        (evidence(None, MUCH, NONE, NONE), None, False, False),
        (evidence(None, None, None, None), None, False, None),
        (evidence(MUCH, NONE, NONE, NONE), False, False, False),  # any image will do
        (evidence(NONE, MUCH, NONE, NONE), False, False, False),
        (evidence(NONE, MUCH, MUCH, NONE), False, False, True),
        (evidence(WIDE, WIDE, NONE, WIDE), None, False, None),
        (evidence(MUCH, WIDE, NONE, MUCH), None, False, True),
        (evidence(WIDE, WIDE, MUCH, NONE), None, False, True),
        (evidence(WIDE, WIDE, NONE, NONE, unmoved=True), False, False, False),
        (evidence(LITTLE, LITTLE, NONE, NONE), None, True, False),  # shown, and little
        (evidence(LITTLE, MUCH, MUCH, NONE), None, True, True),
        (evidence(MUCH, LITTLE, NONE, NONE), None, True, False),
        (evidence(LITTLE, WIDE, NONE, NONE), None, True, False),
        (evidence(LITTLE, NONE, NONE, NONE), False, False, False),
    ],
)
def test_the_verdict(given: Evidence, looks: bool | None, hardly: bool, shortcut: bool | None) -> None:
    found = conclude(given, left_out=3)
    assert (found.looks, found.hardly, found.shortcut) == (looks, hardly, shortcut)
    assert found.verdict.startswith("hardly looks at the image") == hardly
    assert found.verdict.endswith("; the text gives answers away") == bool(shortcut)
    assert found.sentences[-1] == "3 cases without an image were left out."
    warned = looks is False or hardly or bool(shortcut)
    assert warnings_of(found) == ([found.verdict] if warned else [])


def predictions(
    labels: list[str], said: list[str], shift: float, patients: list[str] | None
) -> list[Prediction]:
    whose = patients or [None] * len(labels)
    rows = []
    for number, (label, answer, patient) in enumerate(zip(labels, said, whose, strict=True)):
        fields = {
            "id": f"c{number}", "modality": "xray", "label": label, "predicted": answer, "text": None,
            "correct": answer == label, "method": "score", "p_error": (0.9 if answer == E else 0.1) - shift,
            "patient_id": patient, "error_type": "none", "severity": "none", "image_paths": ("a.png",),
        }  # fmt: skip
        rows.append(Prediction.model_validate(fields))
    return rows


def verdict(
    labels: list[str], plain: list[str], blank: list[str], swap: list[str],
    patients: list[str] | None = None, alike: int = 0, shift: float = 0.02,
) -> Dependence:  # fmt: skip
    """What a model comes to that gives these answers."""
    whole = predictions(labels, plain, 0.0, patients)
    passes = {
        "blanked": _Pass("blanked", whole, predictions(labels, blank, shift, patients)),
        "swapped": _Pass("swapped", whole, predictions(labels, swap, shift, patients), alike),
        "without_finding": _Pass("without_finding", whole, whole),
        "image_alone": _Pass("image_alone", whole, whole),
    }
    return conclude(_evidence(whole, passes, []))


def figures(found: Dependence) -> dict[str, Measure]:
    return {measure.name: measure for measure in found.figures}


def turned(labels: list[str], most: int | None = None) -> list[str]:
    """The wrong answer to each, or to the first `most`."""
    wrong = [C if label == E else E for label in labels]
    return wrong if most is None else wrong[:most] + labels[most:]


@pytest.mark.parametrize("patients", [2, 12, 200])
def test_a_perfect_model_on_matched_pairs_looks(patients: int) -> None:
    """One error and one valid case of each patient: every resample of patients is alike."""
    labels = [E, C] * patients
    whose = [f"p{number // 2}" for number in range(2 * patients)]
    found = verdict(labels, labels, [E] * len(labels), turned(labels), whose)
    shown = figures(found)
    for name in ("from_image", "from_this_image", "from_text"):
        for key in (name, f"balanced_{name}"):
            interval = shown[key].interval
            assert interval is not None
            assert interval[0] < interval[1]
            assert interval[0] <= (shown[key].value or 0.0) <= interval[1]
    assert found.looks is (None if patients == 2 else True)
    assert found.shortcut is not True


def test_a_model_that_reads_and_hardly_looks() -> None:
    labels = [E, C] * 2000
    blind = turned(labels, 120)
    found = verdict(labels, turned(labels, 60), blind, blind)
    assert (found.looks, found.hardly, found.shortcut) == (None, True, True)
    assert found.verdict == "hardly looks at the image; the text gives answers away"
    said = "the image gives +1.5 points (+1.1 to +1.9) of balanced accuracy, the text alone +47.0 points"
    assert found.sentences[0].startswith(f"It hardly looks: {said}")
    assert f"{OTHER} costs 1.5 points" in found.sentences[0]


def test_text_that_suffices_is_a_shortcut_though_another_image_misleads() -> None:
    labels = [E, C] * 100
    whose = [f"p{number // 2}" for number in range(200)]
    swap = [
        wrong if number % 3 else label
        for number, (wrong, label) in enumerate(zip(turned(labels), labels, strict=True))
    ]
    found = verdict(labels, labels, labels, swap, whose)
    assert (found.looks, found.shortcut) == (False, True)
    assert found.verdict == "its accuracy does not come from the image; the text gives answers away"
    assert "Blanking changes 0.0 % of its answers, the other image 66.5 %." in found.sentences[0]


RARE = [E] * 20 + [C] * 380


def test_few_errors_found_by_the_image_alone_are_looking() -> None:
    """Sensitivity 60 % with the image and none without, of 20 errors in 400: accuracy hardly shows it."""
    plain = [E] * 12 + [C] * 8 + [E] * 6 + [C] * 374
    found = verdict(RARE, plain, [C] * 400, [C] * 400)
    shown = figures(found)
    assert shown["from_image"].interval is not None
    assert shown["from_image"].interval[0] < 0
    assert shown["balanced_from_image"].value == pytest.approx((12 / 20 - 6 / 380) / 2)
    assert (found.looks, found.verdict) == (True, "looks at the image")
    assert shown["balanced_from_text"].interval is not None
    assert shown["balanced_from_text"].interval[1] < 0.1
    assert "of its accuracy 95.0 points are the labels' mixture" in found.sentences[2]
    assert "It is judged by balanced accuracy" in found.sentences[3]


def test_few_errors_found_by_the_text_are_a_shortcut_and_no_looking() -> None:
    plain = [E] * 15 + [C] * 5 + [C] * 380
    found = verdict(RARE, plain, plain, plain)
    assert (found.looks, found.shortcut) == (False, True)
    still = verdict(RARE, plain, plain, plain, shift=0.0)
    assert still.verdict == "does not look at the image; the text gives answers away"


def test_flagging_more_without_being_righter_is_no_looking() -> None:
    """With its image it says ERROR half the time, whatever the case; of mostly errors accuracy would rise."""
    labels = [E] * 900 + [C] * 100
    half = [E, C] * 500
    found = verdict(labels, half, [C] * 1000, [C] * 1000)
    shown = figures(found)
    assert (shown["from_image"].value or 0.0) > 0.3
    assert shown["balanced_from_image"].value == pytest.approx(0.0)
    assert found.looks is False


def test_one_right_answer_leaves_accuracy_to_judge() -> None:
    labels = [E] * 60
    found = verdict(labels, labels, [C] * 60, [C] * 60, alike=60)
    assert "balanced_from_image" not in figures(found)
    assert found.looks is True
    assert "balanced" not in " ".join(found.sentences)
    assert OTHER not in " ".join(found.sentences)
    assert "another case's image costs 100.0 points" in found.sentences[0]
    assert found.sentences[-1].startswith(
        "60 cases were shown the image of a case with the same right answer"
    )


def test_a_kind_of_one_patient_cannot_tell() -> None:
    labels = [E] * 4 + [C] * 40
    whose = ["one"] * 4 + [f"p{number}" for number in range(40)]
    found = verdict(labels, labels, list(islice(cycle([C]), 44)), [C] * 44, whose)
    measure = figures(found)["balanced_from_image"]
    assert (measure.interval, measure.reason) == (
        None, "all cases of one right answer are one patient's: nothing can be said of others",
    )  # fmt: skip
    assert found.looks is None
    assert "(no interval)" in found.sentences[0]
    assert "NaN" not in json.dumps(found.model_dump(mode="json"))
