import itertools
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.evaluation import readers
from mlx_medlora.evaluation.prompts import PromptMaker
from mlx_medlora.evaluation.readers import verdict_ids
from mlx_medlora.evaluation.runner import evaluate, write_evaluation
from mlx_medlora.files import write_jsonl
from mlx_medlora.gemma.model import Base
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt
from mlx_medlora.lora.load import load

Loaded = tuple[Base, Encoder]


@pytest.fixture(scope="module")
def loaded(tiny_medgemma: Path) -> Loaded:
    model, processor = load(tiny_medgemma, dtype=mx.float32)
    return model, Encoder(processor, model.config)


@pytest.fixture
def shared_images(phantom_dataset: Path, tmp_path: Path) -> Dataset:
    """Six cases: four on two images, one on both, one without an image."""
    source = Dataset.open(phantom_dataset)
    first, second = (case.image_paths[0] for case in source.cases("train")[:2])
    root = tmp_path / "shared_images"
    (root / "images").mkdir(parents=True)
    for name in (first, second):
        (root / name).write_bytes((source.root / name).read_bytes())
    rows: list[dict[str, Any]] = []
    for number, image in enumerate((first, second, first, second, [first, second], None)):
        row = {
            "id": f"case_{number}",
            "instruction": "You are trained to detect clinical errors. Answer ERROR or CORRECT.",
            "input": "Finding: " + "mass " * (number + 1),
            "output": "ERROR - wrong" if number % 2 else "CORRECT - right",
            "metadata": {"modality": "mri" if number < 3 else "xray", "severity": "low"},
        }
        rows.append(row if image is None else {**row, "image_path": image})
    write_jsonl(root / "val.jsonl", rows)
    return Dataset.open(root)


def oracle(model: Base, prompt: Prompt, word: list[int]) -> float:
    """The word's log-probability from one plain forward pass over prompt and word, no cache."""
    ids = mx.array([*prompt.ids.tolist(), *word])[None]
    soft = (ids == model.config.image_token_id).astype(mx.int32)
    logits = model.head(model.hidden(model.embed(ids, prompt.features), token_type_ids=soft))[0]
    log_probs = logits.astype(mx.float32) - mx.logsumexp(logits.astype(mx.float32), axis=-1, keepdims=True)
    start = len(prompt.ids) - 1
    return sum(log_probs[start + place, token].item() for place, token in enumerate(word))


def test_p_error_is_the_softmax_of_the_two_words(loaded: Loaded, shared_images: Dataset) -> None:
    model, encoder = loaded
    found = evaluate(model, encoder, shared_images, "val", batch_size=6).predictions
    cases = shared_images.cases("val")
    words = verdict_ids(encoder)
    prompts = PromptMaker(model, encoder, shared_images, cases).prompts(cases)
    for row, prompt in zip(found, prompts, strict=True):
        error, correct = (oracle(model, prompt, word) for word in words)
        assert row.p_error == pytest.approx(1 / (1 + np.exp(correct - error)), abs=2e-4)
        assert row.predicted == ("ERROR" if error > correct else "CORRECT")
        assert row.correct == (row.predicted == row.label)


def test_the_words_begin_the_answers_that_are_trained_on(loaded: Loaded) -> None:
    _, encoder = loaded
    for word, answer in zip(verdict_ids(encoder), ("ERROR - No", "CORRECT - Yes"), strict=True):
        turns = [
            {"role": "user", "content": [{"type": "text", "text": "A case"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        encoded = encoder.encode(turns, [], with_answer=True)
        assert encoded.ids[encoded.supervised].tolist()[: len(word)] == word
        assert encoder.tokenizer.decode(word) == answer.split()[0]


def test_the_batch_size_changes_nothing(loaded: Loaded, shared_images: Dataset) -> None:
    one, many = (
        [p.p_error for p in evaluate(*loaded, shared_images, "val", batch_size=size).predictions]
        for size in (1, 4)
    )
    assert one == pytest.approx(many, abs=1e-4)


def test_each_image_goes_through_the_tower_once_and_is_then_forgotten(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = loaded
    seen: list[int] = []
    whole = type(model).image_features

    def counted(self: Any, pixels: mx.array) -> mx.array:
        seen.append(pixels.shape[0])
        return whole(self, pixels)

    monkeypatch.setattr(type(model), "image_features", counted)
    cases = shared_images.cases("val")
    maker = PromptMaker(model, encoder, shared_images, cases)
    held = []
    for case in cases:
        maker.prompts([case])
        held.append(len(maker.features))
    assert sum(seen) == 2
    assert held == [1, 2, 2, 2, 0, 0]


def test_features_that_are_given_spare_the_tower(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = loaded
    cases = shared_images.cases("val")
    maker = PromptMaker(model, encoder, shared_images, cases)
    maker.prompts(cases[:4])  # all images seen, the last cases still to come
    expected = [p.p_error for p in evaluate(model, encoder, shared_images, "val").predictions]
    monkeypatch.setattr(type(model), "image_features", lambda *_: pytest.fail("the tower ran"))
    given = evaluate(model, encoder, shared_images, "val", features=maker.features)
    assert [p.p_error for p in given.predictions] == pytest.approx(expected, abs=1e-5)


def test_progress_counts_cases_after_each_batch(loaded: Loaded, shared_images: Dataset) -> None:
    told: list[tuple[int, int]] = []
    evaluate(*loaded, shared_images, "val", batch_size=4, progress=lambda *at: told.append(at))
    done = [0, *(count for count, _ in told)]
    assert done[-1] == 6
    assert all(0 < after - before <= 4 for before, after in itertools.pairwise(done))
    assert {total for _, total in told} == {6}


@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_predictions_come_in_the_order_of_the_dataset(
    size: int | None, loaded: Loaded, shared_images: Dataset
) -> None:
    found = evaluate(*loaded, shared_images, "val", batch_size=size).predictions
    assert [p.id for p in found] == [case.id for case in shared_images.cases("val")]
    whole = evaluate(*loaded, shared_images, "val", batch_size=6).predictions
    assert [p.p_error for p in found] == pytest.approx([p.p_error for p in whole], abs=1e-5)


def test_the_header_and_each_image_of_several_cases_are_read_once(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = loaded
    read: list[tuple[int, ...]] = []
    whole = Base.embed

    def counted(self: Base, ids: mx.array, features: mx.array | None = None) -> mx.array:
        read.append(ids.shape)
        return whole(self, ids, features)

    monkeypatch.setattr(Base, "embed", counted)
    evaluate(model, encoder, shared_images, "val")
    cases = shared_images.cases("val")
    lengths = [len(p.ids) for p in PromptMaker(model, encoder, shared_images, cases).outlines(cases)]
    (_, header), (_, alone), (_, stem), (_, tail) = read
    assert read == [(1, header), (2, alone), (2, stem), (4, tail)]  # four cases show two images
    assert header >= 16
    assert alone == max(lengths[4:]) - header
    assert header + stem + tail == max(lengths[:4])


def test_generated_answers_are_read_strictly_and_the_unreadable_counted(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = loaded
    texts = ["CORRECT - Yes", "ERROR - No", "Probably ERROR", "CORRECT - No", " CORRECT", ""]
    cases = shared_images.cases("val")
    outlines = PromptMaker(model, encoder, shared_images, cases).outlines(cases)
    text_of = {one.ids.tobytes(): text for one, text in zip(outlines, texts, strict=True)}

    def written(_: Base, prompts: list[Prompt], **settings: Any) -> list[list[int]]:
        assert settings["max_tokens"] == 9
        said = [text_of[one.ids.tobytes()] for one in prompts]
        return [encoder.tokenizer.encode(text, add_special_tokens=False) for text in said]

    monkeypatch.setattr(readers, "generate", written)
    found = evaluate(model, encoder, shared_images, "val", method="generate", max_tokens=9)
    assert [p.predicted for p in found.predictions] == ["CORRECT", "ERROR", None, "CORRECT", "CORRECT", None]
    assert [p.text for p in found.predictions] == texts
    assert found.scorecard.invalid == 2
    assert found.scorecard.correct == 3
    assert all(p.p_error is None for p in found.predictions)


def test_generation_really_runs(loaded: Loaded, shared_images: Dataset) -> None:
    found = evaluate(*loaded, shared_images, "val", method="generate", max_tokens=3)
    assert len(found.predictions) == 6
    assert all(isinstance(p.text, str) for p in found.predictions)


def test_log_probabilities_that_are_not_numbers_are_refused(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        readers, "answer_log_probs", lambda _m, prompts, *_: np.full((len(prompts), 2), np.nan)
    )
    with pytest.raises(MedloraError, match=r"val\.jsonl:6: case 'case_5' got log-probabilities nan"):
        evaluate(*loaded, shared_images, "val")


def test_a_case_longer_than_the_context_is_refused(
    loaded: Loaded, shared_images: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, encoder = loaded
    cases = shared_images.cases("val")
    lengths = [len(p.ids) for p in PromptMaker(model, encoder, shared_images, cases).prompts(cases)]
    assert lengths[4] == max(lengths)  # the one with two images
    text = model.config.text.model_copy(update={"max_position_embeddings": max(lengths)})
    monkeypatch.setattr(model, "config", model.config.model_copy(update={"text": text}))
    evaluate(model, encoder, shared_images, "val")  # just fits
    with pytest.raises(InputError, match=rf"/val\.jsonl:5: case 'case_4' takes {max(lengths)} tokens"):
        evaluate(model, encoder, shared_images, "val", method="generate", max_tokens=1)


def test_control_tokens_in_a_case_are_refused_with_its_line(loaded: Loaded, shared_images: Dataset) -> None:
    file = shared_images.root / "val.jsonl"
    file.write_text(file.read_text().replace("mass mass mass ", "mass <end_of_turn> ", 1))
    with pytest.raises(InputError, match=r"/val\.jsonl:3: case 'case_2': .*<end_of_turn>"):
        evaluate(*loaded, shared_images, "val")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "guess"}, "unknown method 'guess'"),
        ({"batch_size": 0}, "batch size 0"),
        ({"max_tokens": 0}, "max tokens 0"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str, loaded: Loaded, shared_images: Dataset) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(*loaded, shared_images, "val", **wrong)


def test_what_is_written_can_be_read_back(loaded: Loaded, shared_images: Dataset, tmp_path: Path) -> None:
    found = evaluate(*loaded, shared_images, "val")
    output = tmp_path / "evaluation"
    write_evaluation(output, found, {"split": "val"})
    card = json.loads((output / "scorecard.json").read_text())
    assert card["n"] == 6
    assert card["about"]["split"] == "val"
    assert "No case's own text" in card["about"]["contains"][1]
    assert "not a medical device" in card["notice"]
    assert set(card["by_modality"]) == {"mri", "xray"}
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"case_{number}" for number in range(6)]
    assert rows[4]["image_paths"] == list(shared_images.cases("val")[4].image_paths)
    assert sum(row["correct"] for row in rows) == card["correct"]
    with pytest.raises(InputError, match="not empty"):
        write_evaluation(output, found, {})
