"""Claim: answering a split is faster than mlx-vlm's generation, one case at a time.

    python benchmarks/bench_eval.py                  # features cached, as in every eval but the first
    python benchmarks/bench_eval.py --whole          # then all 200 cases once by each
    python benchmarks/bench_eval.py --quick          # seconds, on toy sizes: only to see that it runs

One random fp32 checkpoint of the reference geometry (reference.py) with the embedded model's tokenizer;
generated phantoms, one image a case, all distinct. Each contestant has a process of its own; they take turns.
mlx-vlm answers as its documentation says: chat template, `generate` with the image file, greedy, as many
tokens as a verdict's word takes. `ours` is `evaluate`, method score, with two tokens for CORRECT, as Gemma's
own tokenizer has them; `ours-tower` is the same without cached features; `ours-write`, with them, and
`mlx-vlm-write` write --tokens tokens. Who goes one by one answers fewer cases a turn (--share).
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from reference import QUICK, REFERENCE, Shape, write
from turns import Player, Turn, ratios, spread, take_turns

if TYPE_CHECKING:
    from mlx_medlora.evaluation.runner import Method

ASSETS = Path(__file__).resolve().parents[1] / "mlx_medlora" / "assets" / "tiny-medgemma"
VERDICT_TOKENS = 2
SPLIT = "test"
GOAL = 10.0  # issue 4: mlx-vlm's time over ours, 200 cases, score


IMAGE_TOKENS = {
    "image_token_index": 1696,
    "boi_token_index": 1694,
    "eoi_token_index": 1695,
}  # that tokenizer's


class Ours:
    """`evaluate` on the first cases of the split; features of all its images are computed before, or not."""

    def __init__(
        self,
        directory: str,
        *,
        method: Method = "score",
        tokens: int = 0,
        cached: bool = True,
        share: int = 1,
    ) -> None:
        self.place, self.method, self.tokens = Path(directory), method, tokens
        self.cached, self.share = cached, share

    def load(self) -> None:
        """The weights and the tokenizer."""
        import mlx_medlora
        from mlx_medlora.gemma.processor import Encoder

        self.model, processor = mlx_medlora.load(self.place / "model")
        self.encoder = Encoder(processor, self.model.config)

    def prepare(self) -> None:
        """The dataset, and its features where they are cached."""
        import mlx.core as mx

        from mlx_medlora.cases.dataset import Dataset
        from mlx_medlora.cases.images import open_image
        from mlx_medlora.evaluation import readers

        error, correct = readers.verdict_ids(self.encoder)
        readers.verdict_ids = lambda encoder: [error, [*correct, error[0]][:VERDICT_TOKENS]]
        self.dataset = Dataset.open(self.place / "data")
        self.features: dict[Path, Any] = {}
        for case in self.dataset.cases(SPLIT) if self.cached else ():
            (file,) = self.dataset.image_files(case)
            pixels = mx.array(self.encoder.pixels([open_image(file)]))
            self.features[file] = mx.contiguous(self.model.image_features(pixels)[0])
            mx.eval(self.features[file])

    def turn(self, steps: int) -> Turn:
        """Answer `steps` cases (or a share of them); seconds a case."""
        from mlx_medlora.evaluation.runner import evaluate

        cases = self.dataset.cases(SPLIT)[: max(1, steps // self.share)]
        self.dataset.cases = lambda split: cases  # type: ignore[method-assign]
        start = perf_counter()
        done = evaluate(
            self.model,
            self.encoder,
            self.dataset,
            SPLIT,
            method=self.method,
            max_tokens=max(1, self.tokens),
            features=self.features or None,
        )
        took = perf_counter() - start
        del self.dataset.cases
        return Turn([took / len(cases)] * len(cases), float(len(done.predictions)))


class MlxVlm:
    """mlx-vlm, one case at a time: its `batch_generate` (0.7.10) refuses several images before Gemma 3."""

    def __init__(self, directory: str, *, tokens: int, share: int = 1) -> None:
        self.place, self.tokens, self.share = Path(directory), tokens, share

    def load(self) -> None:
        """The weights and the processor, over the same BLAS as ours."""
        from mlx_medlora.backend import load_blas

        load_blas()
        from mlx_vlm import load

        self.model, self.processor = load(str(self.place / "model"))

    def prepare(self) -> None:
        """The prompts and image files."""
        from mlx_vlm.prompt_utils import apply_chat_template

        from mlx_medlora.cases.dataset import Dataset

        dataset = Dataset.open(self.place / "data")
        self.cases = [
            (
                apply_chat_template(
                    self.processor, self.model.config, f"{case.instruction}\n\n{case.input}", num_images=1
                ),
                str(dataset.image_files(case)[0]),
            )
            for case in dataset.cases(SPLIT)
        ]

    def turn(self, steps: int) -> Turn:
        """Answer `steps` cases (or a share of them); seconds a case."""
        from mlx_vlm import generate

        some = self.cases[: max(1, steps // self.share)]
        settings: dict[str, Any] = {"max_tokens": self.tokens, "temperature": 0.0, "verbose": False}
        start = perf_counter()
        written = [
            generate(self.model, self.processor, prompt, image=[file], **settings).generation_tokens
            for prompt, file in some
        ]
        return Turn([(perf_counter() - start) / len(some)] * len(some), sum(written) / len(written))


def prepare(place: Path, shape: Shape, cases: int) -> None:
    """Write the checkpoint with its tokenizer, and the phantoms."""
    from mlx_medlora.cases.prepare import prepare_phantoms

    model = place / "model"
    write(model, shape)
    _silence(model / "model.safetensors")
    config = json.loads((model / "config.json").read_text()) | IMAGE_TOKENS
    (model / "config.json").write_text(json.dumps(config))
    for file in ASSETS.iterdir():
        if "token" in file.name or file.suffix == ".jinja" or file.name == "generation_config.json":
            shutil.copy(file, model / file.name)
    for name in ("preprocessor_config.json", "processor_config.json"):
        made = json.loads((ASSETS / name).read_text()) | {"image_seq_length": shape.soft_tokens}
        if "size" in made:
            made["size"] = {"height": shape.image, "width": shape.image}
        (model / name).write_text(json.dumps(made))
    prepare_phantoms(cases + 8, place / "data", val=4, test=cases, size=shape.image)


def _silence(file: Path) -> None:
    """Zero the embeddings that the tokenizer has no token for: random weights would write them."""
    import mlx.core as mx

    tensors = mx.load(str(file))
    rows = tensors["language_model.model.embed_tokens.weight"]
    rows[max(IMAGE_TOKENS.values()) + 1 :] = 0
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors, metadata={"format": "pt"})


def report(found: dict[str, list[Turn]], say: Callable[[str], None] = print) -> None:
    """Print seconds a case (and of processor time), and each ratio that is claimed."""
    for name, turns in found.items():
        wall, busy = ([getattr(turn, of) for turn in turns] for of in ("step", "cpu"))
        say(f"{name:16s} {spread(wall, 3)} s a case, {spread(busy, 3)} s of processor time")
    for peer, mine in (
        ("mlx-vlm", "ours"),
        ("mlx-vlm", "ours-tower"),
        ("mlx-vlm-write", "ours-write"),
    ):
        if peer in found and mine in found:
            goal = f", goal {GOAL:.0f}" if (peer, mine) == ("mlx-vlm", "ours") else ""
            busy = [a.cpu / b.cpu for a, b in zip(found[peer], found[mine], strict=True)]
            times = spread(ratios(found[peer], found[mine]), 1)
            say(f"{peer} over {mine}: {times} times{goal}; of processor time {spread(busy, 1)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cases", type=int, default=40, help="a turn, by the batched contestants")
    parser.add_argument(
        "--share", type=int, default=5, help="contestants that go one by one answer 1 in this many"
    )
    parser.add_argument("--tokens", type=int, default=24, help="written by the writing contestants")
    parser.add_argument("--only", nargs="*", help="names of contestants")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    shape = replace(QUICK, vocabulary=2048, layers=6) if given.quick else REFERENCE
    count = 200 if given.whole else given.cases
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), shape, count)
        entries: dict[str, tuple[str, dict[str, Any]]] = {
            "mlx-vlm": ("MlxVlm", {"tokens": VERDICT_TOKENS, "share": given.share}),
            "ours": ("Ours", {}),
            "ours-tower": ("Ours", {"cached": False, "share": given.share}),
            "mlx-vlm-write": ("MlxVlm", {"tokens": given.tokens, "share": given.share}),
            "ours-write": ("Ours", {"method": "generate", "tokens": given.tokens}),
        }
        names = given.only or list(entries)
        players = [
            Player(
                name,
                f"bench_eval:{entries[name][0]}",
                {"directory": scratch} | entries[name][1],
                given.threads,
            )
            for name in names
        ]
        print(f"{given.rounds} rounds; {given.cases} cases, {count} distinct images")
        report(take_turns(players, given.rounds, warmup=2 * given.share, steps=given.cases))
        if given.whole:
            pair = [player for player in players if player.name in ("mlx-vlm", "ours")]
            print("all 200 cases, once:")
            report({p.name: [p.turn(200 * (given.share if p.name == "mlx-vlm" else 1))] for p in pair})
        for player in players:
            player.close()


if __name__ == "__main__":
    main()
