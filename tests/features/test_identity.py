"""What features are told apart by."""

from __future__ import annotations

import os
from pathlib import Path

import mlx.core as mx
import pytest
from stores import Pixels

from mlx_medlora.features import identity as identity_module
from mlx_medlora.features import tower as tower_module
from mlx_medlora.features.identity import identify
from mlx_medlora.features.size import features_bytes
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.load import load_base
from mlx_medlora.gemma.model import Gemma3
from mlx_medlora.gemma.processor import Encoder, load_processor


def named(directory: Path, dtype: mx.Dtype | None = None, memo: Path | None = None) -> str:
    model = load_base(directory, dtype)
    assert isinstance(model, Gemma3)
    return identify(model, Encoder(load_processor(directory), model.config), memo).digest


def test_one_weight_in_the_middle_of_a_tensor_is_enough(tiny_model: Gemma3, encoder: Pixels) -> None:
    before = identify(tiny_model, encoder)
    assert identify(tiny_model, encoder) == before
    weight = tiny_model.vision_tower.vision_model.encoder.layers[1].mlp.fc1.weight
    weight[7, 11] = weight[7, 11] + 1e-3
    assert identify(tiny_model, encoder).digest != before.digest


def test_the_projector_counts_and_the_text_stack_does_not(tiny_model: Gemma3, encoder: Pixels) -> None:
    before = identify(tiny_model, encoder).digest
    tiny_model.text.norm.weight = tiny_model.text.norm.weight + 1
    assert identify(tiny_model, encoder).digest == before
    tiny_model.multi_modal_projector.mm_soft_emb_norm.weight += 1
    assert identify(tiny_model, encoder).digest != before


@pytest.mark.parametrize("halved", ["vision_tower", "multi_modal_projector", "language_model"])
def test_the_dtype_is_that_of_the_features(tiny_model: Gemma3, encoder: Pixels, halved: str) -> None:
    """Weights of several dtypes: what comes out is not always of the projection's."""
    getattr(tiny_model, halved).set_dtype(mx.bfloat16)
    pixels = mx.zeros((1, 3, encoder.side, encoder.side))
    assert identify(tiny_model, encoder).dtype == tiny_model.image_features(pixels).dtype == mx.float32


def test_a_dtype_of_its_own(tiny_medgemma: Path) -> None:
    assert named(tiny_medgemma) != named(tiny_medgemma, mx.bfloat16)


def test_the_same_tower_in_another_layout_has_the_same_name(tiny_medgemma: Path, tmp_path: Path) -> None:
    """mlx-vlm's layout, with a text stack in 4 bits: the features are the same."""
    convert(str(tiny_medgemma), tmp_path / "four", bits=4, dtype="float32")
    assert named(tmp_path / "four") == named(tiny_medgemma)


def test_what_decides_pixels_counts(
    tiny_model: Gemma3, encoder: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {identify(tiny_model, encoder).digest}
    with monkeypatch.context() as patch:
        patch.setattr(identity_module, "OPENING", 2)
        names.add(identify(tiny_model, encoder).digest)
    with monkeypatch.context() as patch:
        patch.setattr(identity_module.PIL, "__version__", "99.0")
        names.add(identify(tiny_model, encoder).digest)
    plain = encoder.pixels
    encoder.pixels = lambda images: plain(images) * 1.0001  # type: ignore[method-assign]
    names.add(identify(tiny_model, encoder).digest)
    assert len(names) == 4


def test_the_processors_settings_count(tiny_medgemma: Path) -> None:
    model = load_base(tiny_medgemma)
    assert isinstance(model, Gemma3)
    encoder = Encoder(load_processor(tiny_medgemma), model.config)
    before = identify(model, encoder).digest
    encoder.processor.image_processor.pan_and_scan_max_num_crops = 3  # the probe's pixels stay the same
    assert identify(model, encoder).digest != before


def test_the_arithmetic_counts(tiny_model: Gemma3, encoder: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(tiny_model, encoder).digest
    monkeypatch.setattr(identity_module, "blas_kernel", lambda: "another kernel 64 threads")
    assert identify(tiny_model, encoder).digest != before


def test_the_weights_are_read_once_for_a_model_directory(
    tiny_medgemma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, memo = tmp_path / "model", tmp_path / "store" / "towers"
    convert(str(tiny_medgemma), directory, bits=None, dtype="float32")
    whole: list[int] = []
    full = tower_module._full
    monkeypatch.setattr(tower_module, "_full", lambda model: (whole.append(1), full(model))[1])
    names = {named(directory, memo=memo) for _ in range(3)}
    assert (len(names), len(whole)) == (1, 1)
    weights = directory / "model.safetensors"
    later = weights.stat().st_mtime_ns + 10**9
    os.utime(weights, ns=(later, later))  # a file of another time is read again
    assert named(directory, memo=memo) in names
    assert len(whole) == 2
    for note in memo.iterdir():
        assert note.stat().st_mode & 0o777 == 0o600
        note.write_text("half")
    assert named(directory, memo=memo) in names
    assert len(whole) == 3


def test_a_memo_that_cannot_be_written_is_done_without(tiny_medgemma: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert named(tiny_medgemma, memo=tmp_path / "file" / "towers") == named(tiny_medgemma)


def test_mimic_cxr_is_460_gibibytes(shared: Path) -> None:
    config = read_config(shared / "medgemma-configs" / "gemma-3-4b-it")
    assert features_bytes(config, 377_110) == 377_110 * 256 * 2560 * 2
    assert round(features_bytes(config, 377_110) / 2**30) == 460
    assert features_bytes(config, 10, "float32") == 10 * 256 * 2560 * 4
    assert features_bytes(config.model_copy(update={"vision": None}), 10) == 0
