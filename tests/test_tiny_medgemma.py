"""What the embedded default model is said to be."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.cases.phantoms import MODALITIES, draw
from mlx_medlora.gemma.generate import generate
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.gemma.scoring import Prompt
from mlx_medlora.lora.load import load


def test_it_is_small(tiny_medgemma: Path) -> None:
    assert sum(file.stat().st_size for file in tiny_medgemma.rglob("*")) < 8 * 2**20


def test_it_says_what_it_sees_in_phantoms_it_never_saw(tiny_medgemma: Path) -> None:
    model, processor = load(tiny_medgemma)
    encoder = Encoder(processor, model.config)
    rng = np.random.default_rng(987_654)
    shown = [(modality, finding) for modality in MODALITIES for finding in (True, False)] * 25
    images = [draw(modality, finding, rng).convert("RGB") for modality, finding in shown]
    features = model.image_features(mx.array(encoder.pixels(images)))
    turns = [
        {"role": "system", "content": [{"type": "text", "text": "Describe the image."}]},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is a finding visible?"}]},
    ]
    ids = encoder.encode(turns, images[:1], with_answer=False).ids
    written = generate(model, [Prompt(ids, one) for one in features], max_tokens=12, eos_ids=(1, 106))
    expected = {True: "A finding is visible.", False: "Nothing abnormal is visible."}
    right = [
        encoder.tokenizer.decode(answer) == expected[finding]
        for answer, (_, finding) in zip(written, shown, strict=True)
    ]
    assert np.mean(right) >= 0.95


def row(encoder: Encoder) -> tuple[np.ndarray, np.ndarray]:
    """ids and pixels of one phantom with a question."""
    image = draw("mri", True, np.random.default_rng(4)).convert("RGB")
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Name the modality."}]}]
    return encoder.encode(turns, [image], with_answer=False).ids, encoder.pixels([image])


def test_transformers_reads_it_and_agrees(tiny_medgemma: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoProcessor, Gemma3ForConditionalGeneration

    model, processor = load(tiny_medgemma)
    ids, pixels = row(Encoder(processor, model.config))
    theirs = Gemma3ForConditionalGeneration.from_pretrained(tiny_medgemma, attn_implementation="eager")
    assert AutoProcessor.from_pretrained(tiny_medgemma).tokenizer.vocab_size == model.config.text.vocab_size
    soft = torch.tensor((ids == model.config.image_token_id).astype(np.int64))[None]
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(ids.astype(np.int64))[None],
            pixel_values=torch.tensor(pixels),
            token_type_ids=soft,
        ).logits.numpy()
    ours = np.array(model(mx.array(ids)[None], mx.array(pixels)))
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-5


def test_mlx_vlm_reads_it(tiny_medgemma: Path) -> None:
    utils = pytest.importorskip("mlx_vlm.utils")
    model = utils.load_model(tiny_medgemma)
    ours, _ = load(tiny_medgemma)
    theirs = model.language_model.model.layers[3].self_attn.q_proj.weight
    assert mx.array_equal(theirs, ours.text.layers[3].self_attn.q_proj.weight)


def test_the_encoder_gives_what_the_processor_gives(tiny_medgemma: Path) -> None:
    model, processor = load(tiny_medgemma)
    encoder = Encoder(processor, model.config)
    image = draw("xray", True, np.random.default_rng(4)).convert("RGB")
    picture = {"type": "image", "image": image}
    turns = [{"role": "user", "content": [picture, {"type": "text", "text": "What?"}, picture]}]
    theirs = processor.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="np"
    )
    assert np.array_equal(theirs["input_ids"][0], encoder.encode(turns, [image] * 2, with_answer=False).ids)
    assert np.array_equal(theirs["pixel_values"], encoder.pixels([image] * 2))
