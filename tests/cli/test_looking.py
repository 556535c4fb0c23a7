"""`eval --dependence` and `--occlusion`, and what `prepare` says of words that tell."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.cli.app import run
from mlx_medlora.evaluation.results import Dependence, OperatingPoint
from mlx_medlora.evaluation.runs import read_run
from mlx_medlora.gemma.model import Gemma3

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("looking") / "data"
    prepare_phantoms(40, directory, val=8, test=24, seed=8)
    return directory


def test_the_run_says_whether_it_looks(
    tiny_medgemma: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    looked: list[int] = []
    plain = Gemma3.image_features

    def counted(self: Gemma3, pixels: object) -> object:
        looked.append(pixels.shape[0])  # type: ignore[attr-defined]
        return plain(self, pixels)  # type: ignore[arg-type]

    monkeypatch.setattr(Gemma3, "image_features", counted)
    ids = [json.loads(line)["id"] for line in (data / "test.jsonl").read_text().splitlines()[:2]]
    arguments = [
        "eval",
        "--model",
        tiny_medgemma,
        "--adapter",
        ROOT / "adapters" / "reference",
        "--data",
        data,
    ]
    more = ["--split", "test", "--dependence", "--output", tmp_path / "run"]
    assert run([*map(str, [*arguments, *more]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(looked) == 25  # each image once for all passes, and the blank
    found = Dependence.model_validate_json((tmp_path / "run" / "dependence.json").read_text())
    assert found.looks is True
    assert found.occlusion == []
    assert shown["dependence"] == found.model_dump(mode="json", exclude={"occlusion"})

    more = ["--split", "test", "--occlusion", ",".join(ids), "--occlusion-grid", "4"]
    assert run([*map(str, [*arguments, *more, "--output", tmp_path / "drawn"])]) == 0
    said = capsys.readouterr().out
    assert "was not measured" in said
    found = Dependence.model_validate_json((tmp_path / "drawn" / "dependence.json").read_text())
    assert [picture.id for picture in found.occlusion] == ids
    assert (found.looks, found.verdict) == (None, "not measured")
    for picture in found.occlusion:
        assert Image.open(tmp_path / "drawn" / picture.path).format == "PNG"
    assert read_run(tmp_path / "drawn").scorecard.n == 24
    assert not list((tmp_path / "drawn").glob("*.jsonl.partial"))


def test_passes_are_decided_by_the_operating_point(
    tiny_medgemma: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(ROOT / "adapters" / "reference", tmp_path / "adapter"))
    place = ["--model", tiny_medgemma, "--adapter", adapter, "--data", data]
    assert run(list(map(str, ["calibrate", *place, "--max-false-flag", "0.5"]))) == 0
    path = adapter / "operating_point.json"
    point = OperatingPoint.model_validate_json(path.read_text())
    path.write_text(point.model_copy(update={"threshold": 1.1}).model_dump_json())  # flags nothing
    more = ["--split", "test", "--dependence", "--output", tmp_path / "run"]
    assert run(list(map(str, ["eval", *place, *more]))) == 0
    found = Dependence.model_validate_json((tmp_path / "run" / "dependence.json").read_text())
    shown = {measure.name: measure.value for measure in found.figures}
    assert shown["changed_blanked"] == shown["changed_swapped"] == 0.0
    assert shown["accuracy"] == shown["accuracy_blanked"] == pytest.approx(13 / 24)
    assert found.looks is not True
    capsys.readouterr()


def test_what_must_not_be_overlooked_is_a_warning(
    tiny_medgemma: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    verdict = "hardly looks at the image; the text gives answers away"
    for number, (looks, hardly, shortcut) in enumerate([(None, True, True), (True, False, False)]):
        found = Dependence(
            verdict=verdict, sentences=["A."], figures=[], looks=looks, hardly=hardly, shortcut=shortcut
        )
        monkeypatch.setattr(
            "mlx_medlora.evaluation.dependence.measure_dependence", lambda *_, found=found: found
        )
        arguments = ["eval", "--model", tiny_medgemma, "--data", data, "--dependence", "--json"]
        assert run(list(map(str, [*arguments, "--output", tmp_path / str(number)]))) == 0
        told = capsys.readouterr()
        assert (f"Warning: does it look? The verdict: {verdict}" in told.err) == hardly
        shown = json.loads(told.out)["dependence"]
        assert (shown["looks"], shown["hardly"]) == (looks, hardly)
        written = Dependence.model_validate_json((tmp_path / str(number) / "dependence.json").read_text())
        assert written == found


def test_flags_that_cannot_be_followed_are_named_before_the_model_loads(
    tiny_medgemma: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mlx_medlora.lora.load.load", lambda *_: pytest.fail("the model was loaded"))
    words = tmp_path / "words"
    words.mkdir()
    row = json.loads((data / "val.jsonl").read_text().splitlines()[0])
    (words / "val.jsonl").write_text(
        json.dumps({name: value for name, value in row.items() if not name.startswith("image")}) + "\n"
    )
    for given, said in (
        (["--data", data, "--dependence", "--method", "generate"], "--dependence compares probabilities"),
        (["--data", words, "--dependence"], "no case of 'val' has an image"),
        (["--data", data, "--occlusion", "gone"], "no case has the id 'gone'"),
        (["--data", words, "--occlusion", row["id"]], "has no image"),
        (["--data", data, "--occlusion", row["id"], "--occlusion-grid", "1"], "occlusion-grid"),
    ):
        arguments = ["eval", "--model", tiny_medgemma, *given, "--output", tmp_path / "out"]
        assert run(list(map(str, arguments))) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_prepare_says_which_words_give_the_answers_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    lines = ["id,modality,image,age,gender,finding,treatment,label"]
    for number in range(40):
        wrong = number % 2
        lines.append(
            f"c{number},xray,a.png,{40 + number // 2},Male,A shadow,Rest{' audited' * wrong},"
            f"{'ERROR' if wrong else 'CORRECT'}"
        )
    for name, text in (("told", "\n".join(lines)), ("plain", "\n".join(lines).replace(" audited", ""))):
        (tmp_path / f"{name}.csv").write_text(text)
        arguments = ["prepare", tmp_path / f"{name}.csv", "--images", tmp_path, "--output", tmp_path / name]
        assert run(list(map(str, arguments))) == 0
        said = capsys.readouterr().err
        assert ("'audited' (20 of 20 are errors)" in said) == (name == "told")
        assert ("Shortcut in the dataset" in said) == (name == "told")
