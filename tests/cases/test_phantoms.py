import hashlib

import numpy as np
import pytest
from PIL import Image

from mlx_medlora.cases.phantoms import MODALITIES, draw


def digest(image: Image.Image) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("finding", [True, False])
def test_the_same_seed_draws_the_same_image_and_another_seed_another(modality, finding):
    first, again, other = (draw(modality, finding, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert digest(first) == digest(again) != digest(other)
    assert first.size == (224, 224)
    assert first.mode == ("RGB" if modality == "histopathology" else "L")


@pytest.mark.parametrize("modality", MODALITIES)
def test_any_size_can_be_drawn(modality):
    assert draw(modality, True, np.random.default_rng(0), size=64).size == (64, 64)


def test_draws_do_not_repeat():
    images = {
        digest(draw(m, f, np.random.default_rng([s]), 64))
        for m in MODALITIES
        for f in (0, 1)
        for s in range(20)
    }
    assert len(images) == 160


def test_an_unknown_modality_is_named():
    with pytest.raises(ValueError, match=r"'pet'.*xray, histopathology"):
        draw("pet", True, np.random.default_rng(0))


def features(modality: str, finding: bool, seed: int) -> np.ndarray:
    """Brightness of 14 x 14 blocks in rising order: says how much is dark or bright, and not where."""
    image = draw(modality, finding, np.random.default_rng([17, seed]), 112).convert("L").reduce(8)
    return np.sort(np.asarray(image, np.float64).ravel()) / 255


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_finding_shows_in_unseen_drawings(modality):
    kinds = np.arange(240) % 2
    rows = np.stack([features(modality, bool(kind), seed) for seed, kind in enumerate(kinds)])
    rows = np.hstack([rows, np.ones((240, 1))])
    seen, unseen = slice(0, 160), slice(160, 240)
    gram = rows[seen].T @ rows[seen] + 0.01 * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, rows[seen].T @ (2 * kinds[seen] - 1))
    right = (rows[unseen] @ weights > 0) == kinds[unseen]
    assert right.mean() >= 0.95
