"""What we write, mlx-vlm loads and generates with; what its converter writes loads here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.cases.phantoms import draw
from mlx_medlora.cli.app import run
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.fingerprint import fingerprint, source_fingerprint
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.lora.fuse import fuse
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings

mlx_vlm = pytest.importorskip("mlx_vlm")
IDS = mx.array([[2, 105, 17, 30, 5, 44, 9]])


def write(kind: str, base: Path, place: Path) -> Path:
    if kind.startswith("converted"):
        convert(base, place / "out", bits=4 if "4" in kind else None, dtype="float32")
        return place / "out"
    saved = ("embed_tokens", "lm_head") if "head" in kind else ()
    settings = LoraSettings(rank=2, save_modules=saved)
    model = load_model(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.02
        model.load_weights([(name, array + noise)], strict=False)
    (place / "adapter").mkdir()
    own = BaseModelId(id="tiny", fingerprint=fingerprint(base), source=source_fingerprint(base))
    save_adapter(place / "adapter", model, settings, own)
    fuse(base, place / "adapter", place / "out", requantise=4 if "4" in kind else None)
    return place / "out"


def assert_same_weights(ours: np.ndarray, theirs: Any) -> None:
    """On text alone its forward is Gemma's, but for sqrt(hidden size), which it rounds to bf16: 1e-4 here."""
    found = np.array(theirs.language_model(IDS).logits.astype(mx.float32))
    assert np.abs(found - ours).max() / np.abs(ours).max() < 5e-4
    assert np.array_equal(found.argmax(-1), ours.argmax(-1))


@pytest.mark.parametrize("kind", ["converted", "converted, 4 bits", "fused", "fused, 4 bits"])
def test_mlx_vlm_loads_and_generates(kind: str, tiny_medgemma: Path, tmp_path: Path) -> None:
    directory = write(kind, tiny_medgemma, tmp_path)
    model, processor = mlx_vlm.load(str(directory))
    assert_same_weights(np.array(load_model(directory)(IDS)), model)
    image = tmp_path / "image.png"
    draw("xray", True, np.random.default_rng(4)).save(image)
    prompt = mlx_vlm.prompt_utils.apply_chat_template(processor, model.config, "What is shown?", num_images=1)
    said = mlx_vlm.generate(model, processor, prompt, image=[str(image)], max_tokens=8, temperature=0.0)
    assert said.generation_tokens > 0


def test_a_head_of_its_own_is_lost_there_and_fuse_says_so(
    tiny_medgemma: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write("fused, own head", tiny_medgemma, tmp_path)
    theirs, _ = mlx_vlm.load(str(directory))
    ours = load_model(directory)
    head, embedding = theirs.language_model.lm_head.weight, ours.text.embed_tokens.weight
    assert mx.array_equal(head, embedding)
    assert not mx.array_equal(ours.speaker.lm_head.weight, embedding)
    place = ["--model", str(tiny_medgemma), "--adapter", str(tmp_path / "adapter")]
    assert run(["fuse", *place, "--output", str(tmp_path / "again")]) == 0
    assert "mlx-vlm puts the embedding in its place" in capsys.readouterr().out


@pytest.mark.parametrize("bits", [None, 4])
def test_what_its_converter_writes_loads_here(bits: int | None, tiny_medgemma: Path, tmp_path: Path) -> None:
    from mlx_vlm.convert import convert as convert_theirs

    options = {} if bits is None else {"quantize": True, "q_bits": bits, "q_group_size": 64}
    convert_theirs(str(tiny_medgemma), str(tmp_path / "theirs"), dtype="float32", **options)
    theirs, _ = mlx_vlm.load(str(tmp_path / "theirs"))
    assert_same_weights(np.array(load_model(tmp_path / "theirs")(IDS)), theirs)
