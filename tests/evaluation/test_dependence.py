"""Does it look: a model that does, one that cannot, one that learned a planted word."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.cases.card import NOT_STATED, case_text, without_finding
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation import words
from mlx_medlora.evaluation.altered import Altered, blank_image, finding_removed, swapped, text_removed
from mlx_medlora.evaluation.dependence import _all_cases, measure_dependence
from mlx_medlora.evaluation.flags import share
from mlx_medlora.evaluation.results import Dependence, Measure, Prediction
from mlx_medlora.evaluation.runner import evaluate
from mlx_medlora.evaluation.tally import Tally, patient_numbers
from mlx_medlora.evaluation.words import probe_words
from mlx_medlora.features.settings import FeatureSettings
from mlx_medlora.files import write_jsonl
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

ADAPTERS = Path(__file__).resolve().parents[2] / "adapters"
TELL = "Reviewed by the night team."


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dependence") / "data"
    prepare_phantoms(240, directory, val=8, test=64, seed=31)
    return directory


@pytest.fixture(scope="module")
def planted(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cases with a sentence in every wrong one, and the images dealt out anew."""
    directory = tmp_path_factory.mktemp("planted") / "data"
    directory.mkdir()
    (directory / "images").symlink_to(phantoms / "images")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        rows = [json.loads(line) for line in (phantoms / f"{split}.jsonl").read_text().splitlines()]
        images = [row["image_file"] for row in rows]
        for row, place in zip(rows, rng.permutation(len(rows)), strict=True):
            row["image_file"], row["image_path"] = images[place], f"images/{images[place]}"
            row["input"] += f"\n\n{TELL}" if row["output"].startswith("ERROR") else ""
        write_jsonl(directory / f"{split}.jsonl", rows)
    for link in [directory / "images"]:  # a dataset's images may not lie outside it
        link.unlink()
        link.mkdir()
        for image in (phantoms / "images").iterdir():
            (link / image.name).hardlink_to(image)
    return directory


def measured(model: Gemma3, encoder: Encoder, data: Path) -> Dependence:
    dataset = Dataset.open(data)

    def answer(altered: Dataset, name: str) -> list[Prediction]:
        return evaluate(model, encoder, altered, "test").predictions

    return measure_dependence(answer, encoder, dataset, "test", answer(dataset, "plain"))


def opened(tiny: Path, adapter: Path) -> tuple[Gemma3, Encoder]:
    model, processor = load(tiny, adapter)
    assert isinstance(model, Gemma3)
    return model, Encoder(processor, model.config)


def figures(found: Dependence) -> dict[str, Measure]:
    return {measure.name: measure for measure in found.figures}


def test_a_model_that_looks(tiny_medgemma: Path, phantoms: Path) -> None:
    found = measured(*opened(tiny_medgemma, ADAPTERS / "reference"), phantoms)
    shown = figures(found)
    assert found.looks is True
    assert found.shortcut is not True
    assert found.verdict == "looks at the image"
    assert shown["accuracy"].value is not None
    assert shown["accuracy"].value >= 0.9
    for name in ("accuracy_blanked", "accuracy_swapped", "accuracy_image_alone"):
        assert shown[name].value == pytest.approx(0.5, abs=0.2)
    gain, accuracy, blanked = (shown[name].value for name in ("from_image", "accuracy", "accuracy_blanked"))
    assert accuracy is not None
    assert blanked is not None
    assert gain == pytest.approx(accuracy - blanked)
    assert found.sentences[0].startswith("It looks: the image gives +")
    assert (
        "of balanced accuracy, and the image of a case with the other right answer costs "
        in (found.sentences[0])
    )
    assert "with the image of a case with the other right answer" in found.sentences[1]
    assert Dependence.model_validate_json(found.model_dump_json()) == found


def test_a_model_that_cannot_see_is_caught(tiny_medgemma: Path, phantoms: Path) -> None:
    model, encoder = opened(tiny_medgemma, ADAPTERS / "reference")
    projector = model.multi_modal_projector
    projector.mm_input_projection_weight = mx.zeros_like(projector.mm_input_projection_weight)
    found = measured(model, encoder, phantoms)
    assert found.looks is False
    assert found.verdict == "does not look at the image"
    assert found.sentences[0].startswith("It does not look")
    shown = figures(found)
    assert (shown["changed_blanked"].value, shown["from_image"].value) == (0.0, 0.0)
    assert shown["probability_shift"].value == pytest.approx(0.0, abs=1e-6)


def test_a_model_that_learned_a_planted_word_is_caught(
    tiny_medgemma: Path, planted: Path, tmp_path: Path
) -> None:
    """Trained on images that belong to other cases: there is nothing but the word to learn."""
    settings = TrainSettings(epochs=8, lr=4e-3, batch_size=16, seed=1)
    run_training(
        tiny_medgemma, planted, tmp_path / "adapter", settings, features=FeatureSettings(memory=True)
    )
    found = measured(*opened(tiny_medgemma, tmp_path / "adapter"), planted)
    shown = figures(found)
    assert shown["accuracy"].value is not None
    assert shown["accuracy"].value >= 0.9  # as good a model as any, by its accuracy
    assert (found.looks, found.shortcut) == (False, True)
    assert found.verdict == "its accuracy does not come from the image; the text gives answers away"
    for name in ("from_text", "balanced_from_text"):
        interval = shown[name].interval
        assert interval is not None
        assert interval[0] > 0.2
    assert any(sentence.startswith("Shortcut: without seeing") for sentence in found.sentences)


def test_a_planted_word_is_found_before_training(planted: Path, phantoms: Path) -> None:
    for data, caught in ((planted, True), (phantoms, False)):
        dataset = Dataset.open(data)
        found = probe_words([case for split in dataset.splits() for case in dataset.cases(split)])
        assert found.gain.interval is not None
        assert (found.gain.interval[0] > 0) == caught
        assert found.suspected is caught
        assert bool(found.words) == caught  # of phantoms every word is with either answer as often
        assert all(word.text in TELL.lower() for word in found.words)
        if caught:
            assert found.accuracy.value == 1.0
            assert found.words[0].errors == found.words[0].n


def test_words_of_few_patients_are_not_shown(phantoms: Path) -> None:
    cases = [
        case.model_copy(
            update={
                "patient_id": f"p{number // 12 if number < 24 else number // 4}",
                "input": f"{case.input} {'Zyx' * (number < 24)} {'Told' * (case.label == 'ERROR')}",
                "output": "ERROR - x" if number < 24 else case.output,
            }
        )
        for number, case in enumerate(Dataset.open(phantoms).cases("train"))
    ]
    found = probe_words(cases)
    assert [word.text for word in found.words] == ["told"]  # and 'zyx' would tell as much
    assert found.accuracy.interval_method == "bootstrap over patients, at least Wilson"
    few = probe_words(cases[:4])
    assert (few.accuracy.value, few.gain.interval, few.words) == (None, None, ())
    assert few.accuracy.reason == "fewer than 5 patients with either right answer"
    mute = probe_words([case.model_copy(update={"input": "..."}) for case in cases])
    assert (mute.gain.value, mute.gain.reason) == (None, "the text has no words")


def test_many_cases_are_sampled(planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = Dataset.open(planted).cases("train")
    monkeypatch.setattr(words, "MOST", 60)
    found = probe_words(cases)
    assert found == probe_words(cases)
    assert (found.accuracy.n, found.accuracy.value) == (60, 1.0)


def test_another_split_s_damage_stops_nothing(phantoms: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(phantoms, tmp_path / "data"))
    dataset = Dataset.open(data)
    whole = sum(len(dataset.cases(split)) for split in dataset.splits())
    lost = len(dataset.cases("train"))
    (data / "train.jsonl").write_text("{")
    assert len(_all_cases(dataset, "test")) == whole - lost
    with pytest.raises(InputError):
        _all_cases(dataset, "train")


def test_nothing_changed_changes_nothing(tiny_medgemma: Path, phantoms: Path) -> None:
    """The way of asking again adds nothing of its own."""
    model, encoder = opened(tiny_medgemma, ADAPTERS / "reference")
    dataset = Dataset.open(phantoms)
    cases = dataset.cases("val")
    same = Altered(dataset, cases, {case.id: dataset.image_files(case) for case in cases})
    assert (
        evaluate(model, encoder, same, "any").predictions
        == evaluate(model, encoder, dataset, "val").predictions
    )


def test_everyone_gets_another_s_image(phantoms: Path) -> None:
    dataset = Dataset.open(phantoms)
    cases = dataset.cases("test")
    found = swapped(dataset, cases)
    assert [case.id for case in found.cases("test")] == [case.id for case in cases]
    owner = {dataset.image_files(case)[0]: case for case in cases}
    donors = [owner[found.image_files(case)[0]] for case in cases]
    for case, donor in zip(cases, donors, strict=True):
        assert donor.id != case.id
        assert donor.label != case.label
        assert donor.metadata.modality == case.metadata.modality
    assert len({donor.id for donor in donors}) == len(cases)  # nobody's image is asked for twice
    again = swapped(dataset, cases)
    assert all(again.image_files(case) == found.image_files(case) for case in cases)
    other = swapped(dataset, cases, seed=1)
    assert any(other.image_files(case) != found.image_files(case) for case in cases)
    one = dataset.image_files(cases[0])[0]
    alike = Altered(dataset, cases, dict.fromkeys((case.id for case in cases), (one,)))
    assert swapped(alike, cases).cases("test") == []  # all show the same image: there is no other
    assert found.alike == 0
    errors = [case for case in cases if case.label == "ERROR"]
    assert swapped(dataset, errors).alike == len(errors)


def test_the_blank_is_nothing_to_the_tower(tiny_medgemma: Path) -> None:
    _, encoder = opened(tiny_medgemma, ADAPTERS / "reference")
    with blank_image(encoder) as path:
        assert np.abs(encoder.pixels([open_image(path)])).max() < 0.005
    assert not path.exists()


def test_the_finding_goes_and_the_rest_stays(phantoms: Path) -> None:
    text = case_text(61, "Female", "Dense **mass**\nin two lines", "Biopsy")
    assert without_finding(text) == case_text(61, "Female", NOT_STATED, "Biopsy")
    assert without_finding("**Treatment:** rest\n**FINDINGS:** a mass") == (
        f"**Treatment:** rest\n**FINDINGS:**\n{NOT_STATED}"
    )
    assert without_finding("A mass was found. Biopsy.") is None
    dataset = Dataset.open(phantoms)
    case = dataset.cases("val")[0]
    plain = case.model_copy(update={"id": "plain", "input": "no headings"})
    left = finding_removed(dataset, [case, plain]).cases("val")
    assert [one.id for one in left] == [case.id]
    assert text_removed(dataset, [case]).cases("val")[0].input == NOT_STATED


def test_one_case_tells_nothing_of_a_model(tiny_medgemma: Path, phantoms: Path) -> None:
    _, encoder = opened(tiny_medgemma, ADAPTERS / "reference")
    dataset = Dataset.open(phantoms)
    [case] = dataset.cases("val")[:1]
    alone = Altered(dataset, [case], {case.id: dataset.image_files(case)})
    unmoved = [Prediction(
        id=case.id, label=case.label, predicted=case.label, correct=True, method="score", p_error=0.5,
        modality="xray", error_type="none", severity="none", patient_id=None, text=None,
        image_paths=("a.png",),
    )]  # fmt: skip
    found = measure_dependence(lambda *_: unmoved, encoder, alone, "val", unmoved)
    assert found.looks is None
    assert (
        "Of 1 case with an image it answers 100.0 % rightly; with the image blanked 100.0 %, with "
        in (found.sentences[1])
    )
    assert "with another case's image n/a," in found.sentences[1]


def test_without_images_there_is_nothing_to_blank(tiny_medgemma: Path, phantoms: Path) -> None:
    _, encoder = opened(tiny_medgemma, ADAPTERS / "reference")
    dataset = Dataset.open(phantoms)
    cases = [
        case.model_copy(update={"image_path": None, "image_file": None}) for case in dataset.cases("val")
    ]
    bare = Altered(dataset, cases, {case.id: () for case in cases})
    with pytest.raises(InputError, match="no case of 'val' has an image"):
        measure_dependence(lambda *_: [], encoder, bare, "val", [])


def test_a_share_is_that_of_the_scorecard() -> None:
    rng = np.random.default_rng(5)
    holds, patient = rng.random(80) < 0.7, patient_numbers([f"p{n}" for n in rng.integers(30, size=80)])
    found = share("x", "y", holds, patient)
    assert (found.value, found.count, found.n) == (holds.mean(), holds.sum(), 80)
    alone = share("x", "y", holds, np.arange(80))
    assert alone.interval_method == "Wilson"
    assert found.interval is not None
    assert alone.interval is not None
    assert found.interval[0] <= alone.interval[0]
    assert share("x", "y", holds[:0], patient[:0]).reason == "no cases"
    assert Tally.of([]).patients == 0


@pytest.fixture(autouse=True)
def _small_cache() -> Iterator[None]:
    yield
    mx.clear_cache()
