"""Occlusion: the finding's place moves the answer most, and the picture says so without colour."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter

from mlx_medlora.cases import phantoms
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.prepare import prepare_phantoms
from mlx_medlora.errors import InputError
from mlx_medlora.evaluation.altered import Altered
from mlx_medlora.evaluation.occlusion import breadth, by_patch, chosen, hidden, occlude, windows
from mlx_medlora.evaluation.runner import evaluate
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load
from mlx_medlora.report.overlay import draw_overlay

ADAPTER = Path(__file__).resolve().parents[2] / "adapters" / "reference"
SEED, SIZE, GRID = 4242, 224, 7


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("occlusion") / "data"
    prepare_phantoms(80, directory, val=0, test=0, seed=SEED)
    return directory


def lesion(index: int) -> np.ndarray:
    """(G, G) how much of each patch differs from the same drawing without its finding."""
    with_it, without = (
        np.asarray(phantoms.draw("mri", finding, np.random.default_rng([SEED, 2, index]), SIZE), float)
        for finding in (True, False)
    )
    gap = np.abs(uniform_filter(with_it, 9) - uniform_filter(without, 9))
    return gap.reshape(GRID, SIZE // GRID, GRID, SIZE // GRID).mean(axis=(1, 3))


def test_the_lesion_s_patch_moves_the_answer_most(tiny_medgemma: Path, data: Path) -> None:
    model, processor = load(tiny_medgemma, ADAPTER)
    encoder, dataset = Encoder(processor, model.config), Dataset.open(data)
    known = {p.id: p.p_error for p in evaluate(model, encoder, dataset, "train").predictions}
    cases = [
        case
        for case in dataset.cases("train")
        if case.metadata.modality == "mri" and case.metadata.model_dump()["image_has_finding"]
    ]
    assert {case.label for case in cases} == {"ERROR", "CORRECT"}
    hits = 0
    for case in cases:
        steps: list[tuple[int, int]] = []
        found = occlude(
            model, encoder, dataset, case, grid=GRID, progress=lambda *step, seen=steps: seen.append(step)
        )[0]
        assert 1 / (1 + np.exp(-found.log_odds)) == pytest.approx(known[case.id], abs=1e-4)
        assert steps[-1] == (36, 36)
        towards = found.change if case.label == "ERROR" else -found.change  # the finding speaks for its label
        where = lesion(int(case.id.rsplit("_", 1)[1]) - 1)
        hits += bool(where.reshape(-1)[towards.argmax()] >= 0.3 * where.max())
    assert len(cases) >= 8
    assert hits >= len(cases) - 1


def test_each_image_of_a_case_has_its_own(tiny_medgemma: Path, data: Path) -> None:
    model, processor = load(tiny_medgemma, ADAPTER)
    encoder, dataset = Encoder(processor, model.config), Dataset.open(data)
    first, second = dataset.cases("train")[:2]
    files = (*dataset.image_files(first), *dataset.image_files(second))
    both = first.model_copy(update={"image_path": ["images/a.png", "images/b.png"]})
    found = occlude(model, encoder, Altered(dataset, [both], {both.id: files}), both, grid=3)
    assert [one.file for one in found] == list(files)
    assert found[0].log_odds == found[1].log_odds
    assert all(one.change.shape == (3, 3) and np.abs(one.change).max() > 0 for one in found)
    bare = first.model_copy(update={"image_path": None, "image_file": None})
    with pytest.raises(InputError, match=r"/\w+\.jsonl:\d+: case .* has no image to occlude"):
        occlude(model, encoder, Altered(dataset, [bare], {bare.id: ()}), bare)
    with pytest.raises(InputError, match="a grid of 60 patches a side"):
        occlude(model, encoder, dataset, first, grid=60)


def test_windows_cover_the_image() -> None:
    image = np.arange(2 * 6 * 6, dtype=np.float32).reshape(2, 6, 6)
    assert (breadth(2), breadth(3), breadth(7), breadth(14)) == (1, 1, 2, 4)
    assert len(windows(7)) == 36
    one = hidden(image, 3, [(0, 1)])[0]
    assert (one[0, :2, 2:4] == image[0].mean()).all()
    assert (one[1, :2, 2:4] == image[1].mean()).all()
    changed = one != image
    assert not changed[:, 2:].any()
    assert not changed[:, :, :2].any()
    changes = np.zeros(36)
    changes[windows(7).index((2, 3))] = 4.0
    found = by_patch(changes, 7)
    assert found[2:4, 3:5].tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert found.sum() == 4.0
    assert by_patch(np.ones(36), 7).tolist() == np.ones((7, 7)).tolist()


def test_ids_are_looked_up(data: Path) -> None:
    cases = Dataset.open(data).cases("train")
    a, b = cases[3].id, cases[5].id
    assert [case.id for case in chosen(cases, f"{b}, {a},{b}")] == [b, a]
    comma = cases[0].model_copy(update={"id": "one, two"})
    assert chosen([comma], "one, two") == [comma]
    for wanted, said in (("gone", "no case has the id 'gone'"), (" , ", "names no case")):
        with pytest.raises(InputError, match=said):
            chosen(cases, wanted)
    bare = comma.model_copy(update={"image_path": None, "image_file": None})
    with pytest.raises(InputError, match="has no image"):
        chosen([bare], "one, two")


@pytest.mark.parametrize("title", ["plain", r"$\frac{1$ _^ </svg>", "x" * 500 + "\n" + "\u202e\x00"])
def test_pictures_of_any_case(tmp_path: Path, title: str) -> None:
    change = np.zeros((7, 7))
    still, moved = tmp_path / "still.png", tmp_path / "moved.png"
    image = Image.new("RGB", (90, 40), (120, 0, 0))
    draw_overlay(still, image, change, title)
    change[1, 5], change[6, 0] = 3.0, -2.0
    draw_overlay(moved, image, change, title)
    grey = [np.asarray(Image.open(path).convert("L"), int) for path in (still, moved)]
    assert grey[0].shape == grey[1].shape
    assert grey[0].shape[1] > 900
    dark = [(one[:, 550:950] < 30).sum() for one in grey]  # signs and outlines are there without colour
    assert dark[1] > dark[0] + 200


def test_a_noisy_picture_fits_on_a_page(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    draw_overlay(tmp_path / "noise.png", Image.fromarray(noise), np.eye(7), "noise")
    assert (tmp_path / "noise.png").stat().st_size < 400_000
