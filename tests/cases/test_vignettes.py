from collections import Counter
from itertools import product

import numpy as np
import pytest

from mlx_medlora.cases.phantoms import MODALITIES
from mlx_medlora.cases.vignettes import VOCABULARY, vignette

CELLS = list(product(MODALITIES, (True, False), ("CORRECT", "ERROR")))


@pytest.mark.parametrize(("modality", "has_finding", "label"), CELLS)
def test_the_claim_agrees_with_the_image_exactly_where_the_case_is_correct(modality, has_finding, label):
    words = VOCABULARY[modality]
    for seed in range(30):
        text = vignette(modality, has_finding, label, np.random.default_rng(seed))
        claims = text.finding in words.positive_findings
        assert claims == (has_finding if label == "CORRECT" else not has_finding)
        fitting = {treatment.text: treatment for treatment in words.treatments(claims)}
        assert text.treatment in fitting
        assert text.output.startswith(f"{label} - ")
        if label == "CORRECT":
            assert (text.error_type, text.severity) == ("none", "none")
        else:
            assert text.error_type == fitting[text.treatment].error_type
            assert text.error_type in (
                {"overtreatment", "unnecessary_procedure"} if claims else {"undertreatment"}
            )
            assert text.severity != "none"


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_phrase_belongs_to_one_side(modality):
    words = VOCABULARY[modality]
    assert not set(words.positive_findings) & set(words.negative_findings)
    positive, negative = (Counter(each.text for each in words.treatments(side)) for side in (True, False))
    assert max((positive + negative).values()) == 1


def test_the_text_says_nothing_of_the_label():
    """For the same random numbers, the four kinds of case give each text once CORRECT and once ERROR."""
    for modality, seed in product(MODALITIES, range(50)):
        labels: dict[str, list[str]] = {}
        for has_finding, label in product((True, False), ("CORRECT", "ERROR")):
            text = vignette(modality, has_finding, label, np.random.default_rng(seed))
            labels.setdefault(text.input, []).append(label)
        assert sorted(map(sorted, labels.values())) == [["CORRECT", "ERROR"]] * 2


def test_texts_are_short_and_in_the_cards_shape():
    longest = 0
    for index, (modality, has_finding, label) in enumerate(CELLS * 10):
        text = vignette(modality, has_finding, label, np.random.default_rng(index))
        head, finding, treatment = text.input.split("\n\n")
        assert head == f"**Patient Information:**\n- Age: {text.age}\n- Gender: {text.gender}"
        assert finding == f"**Imaging Finding:**\n{text.finding}"
        assert treatment == f"**Treatment:**\n{text.treatment}"
        longest = max(longest, len(text.input.split()))
    assert longest < 40
