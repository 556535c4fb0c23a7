"""mlx-vlm and this toolkit on the same weights and rows, against transformers.

    python benchmarks/compare_mlx_vlm.py --cases 200

Needs mlx-vlm, torch and the demo's 90 seconds. Prints three findings: whether a later token reaches earlier
logits in the forward that mlx-vlm trains with; how far its logits are from transformers'; and, for somebody
who serves our fused model with mlx-vlm or LM Studio, how many answers change.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import mlx_medlora

# isort: split
import mlx.core as mx
import numpy as np
import torch
from mlx_vlm import generate
from mlx_vlm import load as load_theirs
from mlx_vlm.prompt_utils import apply_chat_template
from transformers import Gemma3ForConditionalGeneration

from mlx_medlora.cases.conversation import conversation
from mlx_medlora.cases.dataset import Dataset
from mlx_medlora.cases.images import open_image
from mlx_medlora.cases.schema import Case
from mlx_medlora.demo import run_demo
from mlx_medlora.evaluation.answers import parse_answer
from mlx_medlora.evaluation.runner import answer_case
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.fuse import fuse

Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    count = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "demo"
        run_demo(place, say=lambda text: None)
        fuse(place / "model", place / "adapter", place / "fused")
        dataset = Dataset.open(place / "dataset")
        cases = dataset.cases("test")[:count]
        compare_forward(place / "fused", dataset, cases[0])
        compare_answers(place / "fused", dataset, cases)


def row(encoder: Encoder, dataset: Dataset, case: Case) -> tuple[Array, Array]:
    """Ids (1, L) and pixels (N, 3, H, W) of a case with its answer."""
    images = [open_image(file) for file in dataset.image_files(case)]
    ids = encoder.encode(conversation(case, with_answer=True), images, with_answer=True).ids
    return ids[None].astype(np.int64), encoder.pixels(images)


def compare_forward(directory: Path, dataset: Dataset, case: Case) -> None:
    """Print the leak, and the distance of logits from transformers'."""
    ours, processor = mlx_medlora.load(directory)
    ids, pixels = row(Encoder(processor, ours.config), dataset, case)
    changed = ids.copy()
    changed[0, -1] = 5
    theirs, _ = load_theirs(str(directory))

    def of_theirs(given: Array) -> Array:
        found = theirs(mx.array(given), mx.array(pixels), mx.ones(given.shape, mx.int32))
        return np.array(found.logits.astype(mx.float32))[0]

    def of_ours(given: Array) -> Array:
        return np.array(ours(mx.array(given), mx.array(pixels)))[0]

    types = torch.tensor((ids == ours.config.image_token_id).astype(np.int64))
    reference = Gemma3ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.no_grad():
        inputs = {"input_ids": torch.tensor(ids), "pixel_values": torch.tensor(pixels)}
        wanted = reference(**inputs, token_type_ids=types).logits[0].numpy()
    print(f"one row of {ids.shape[1]} tokens with an image; changing its last token moves earlier logits by")
    for name, forward in (("mlx-vlm's training forward", of_theirs), ("this toolkit's", of_ours)):
        plain = forward(ids)
        moved = np.abs(forward(changed)[:-1] - plain[:-1]).max() / np.abs(plain).max()
        distance = np.abs(plain - wanted).max() / np.abs(wanted).max()
        same = (plain.argmax(-1) == wanted.argmax(-1)).mean()
        print(f"  {name:28s} {moved:.1e}; logits {distance:.1e} from transformers', argmax agrees {same:.0%}")


def compare_answers(directory: Path, dataset: Dataset, cases: list[Case]) -> None:
    """Print how many greedy answers change when mlx-vlm serves the fused model."""
    ours, processor = mlx_medlora.load(directory)
    encoder = Encoder(processor, ours.config)
    theirs, their_processor = load_theirs(str(directory))
    right = {"this toolkit": 0, "mlx-vlm": 0}
    texts = verdicts = 0
    for case in cases:
        mine = answer_case(ours, encoder, dataset, case, 24)
        prompt = apply_chat_template(
            their_processor, theirs.config, f"{case.instruction}\n\n{case.input}", num_images=1
        )
        files = [str(file) for file in dataset.image_files(case)]
        served = generate(theirs, their_processor, prompt, image=files, max_tokens=24, temperature=0.0)
        text = served.text.split("<end_of_turn>")[0].strip()
        texts += text != mine
        verdicts += parse_answer(text) != parse_answer(mine)
        right["this toolkit"] += parse_answer(mine) == case.label
        right["mlx-vlm"] += parse_answer(text) == case.label
    print(f"{len(cases)} held-out cases served by mlx-vlm: {texts} texts and {verdicts} verdicts change")
    print("  right: " + ", ".join(f"{name} {count} of {len(cases)}" for name, count in right.items()))


if __name__ == "__main__":
    main()
