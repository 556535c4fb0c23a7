"""The ladder holds on unlike checkpoints, and a fault of ours turns its own rung red."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.utils import tree_flatten

import mlx_medlora.gemma.generate
import mlx_medlora.gemma.model
import mlx_medlora.gemma.norms
import mlx_medlora.lora.layers
import mlx_medlora.lora.merge
import mlx_medlora.lora.peft_export
import mlx_medlora.training.optimizer
import mlx_medlora.training.trainer
from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.fingerprint import fingerprint
from mlx_medlora.gemma.masks import Masks
from mlx_medlora.gemma.processor import Encoded, Encoder
from mlx_medlora.lora.adapter import BaseModelId, save_adapter
from mlx_medlora.lora.layers import attach
from mlx_medlora.lora.load import load_model
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.parity import ours, steps
from mlx_medlora.parity.ladder import PROBES, climb, open_sides
from mlx_medlora.parity.sides import Sides
from mlx_medlora.training.settings import PRESETS, TrainSettings

GEOMETRIES = (
    "narrow",
    "odd heads",
    "own scalar",
    "short window",
    "wide tower",
    "no scaled rope",
    "old names",
    "text only",
)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_rung_holds(name: str, checkpoint: Callable[[str], Path]) -> None:
    found = climb(open_sides(checkpoint(name)))
    assert found.failures == []
    assert found.first_parting is None
    assert len(found.rungs) == 11
    idle = {rung.number for rung in found.rungs if rung.status == "not applicable"}
    assert idle <= ({1, 3, 11} if name == "text only" else {11} if name == "odd heads" else set())
    assert all(rung.error is not None for rung in found.rungs if rung.status == "passed")


def test_the_rungs_hold_for_the_notebook_s_adapter(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoint("narrow")
    settings = TrainSettings(**PRESETS["google-notebook"] | {"rank": 4, "dropout": 0.0}).lora
    model = load_model(base)
    attach(model, settings)
    for index, (name, array) in enumerate(tree_flatten(model.trainable_parameters())):
        noise = mx.random.normal(array.shape, key=mx.random.key(index)) * 0.05
        model.load_weights([(name, array + noise)], strict=False)
    save_adapter(tmp_path, model, settings, BaseModelId(id="narrow", fingerprint=fingerprint(base)))
    found = climb(open_sides(base, adapter=tmp_path), only=[6, 7, 8, 9])
    assert [rung.status for rung in found.rungs] == ["passed"] * 4, found.rungs


Patch = Callable[[pytest.MonkeyPatch], None]


def resized_otherwise(patch: pytest.MonkeyPatch) -> None:
    plain = Encoder.pixels
    patch.setattr(Encoder, "pixels", lambda self, images: plain(self, [i.resize((100, 100)) for i in images]))


def supervised_one_late(patch: pytest.MonkeyPatch) -> None:
    plain = Encoder.encode

    def shifted(self: Encoder, *args: Any, **more: Any) -> Encoded:
        found = plain(self, *args, **more)
        return Encoded(found.ids, np.roll(found.supervised, 1))

    patch.setattr(Encoder, "encode", shifted)


def another_eps(patch: pytest.MonkeyPatch) -> None:
    plain = nn.LayerNorm.__init__

    def start(self: nn.LayerNorm, dims: int, eps: float = 1e-5, **more: Any) -> None:
        plain(self, dims, 1e-3, **more)

    patch.setattr(nn.LayerNorm, "__init__", start)


def causal_inside_images(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.gemma.model.make_masks

    def causal(length: int, window: int, mask: Any = None, types: Any = None) -> Masks:
        return plain(length, window, mask, None)

    patch.setattr(mlx_medlora.gemma.model, "make_masks", causal)


def prompt_counted(patch: pytest.MonkeyPatch) -> None:
    plain = ours.loss
    patch.setattr(
        ours, "loss", lambda model, batch: plain(model, batch) * batch.supervised / len(batch.case_ids)
    )


def scale_without_rank(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.lora.layers.LoraLinear.__init__

    def start(self: Any, linear: Any, rank: int, scale: float, *more: Any) -> None:
        plain(self, linear, rank, scale / rank, *more)

    patch.setattr(mlx_medlora.lora.layers.LoraLinear, "__init__", start)


def no_bias_correction(patch: pytest.MonkeyPatch) -> None:
    from mlx.optimizers import AdamW

    def made(decay: float) -> AdamW:
        return AdamW(0.0, betas=[0.9, 0.999], eps=1e-8, weight_decay=decay, bias_correction=False)

    patch.setattr(mlx_medlora.training.optimizer, "adamw", made)


def mean_of_means(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.training.optimizer.add
    patch.setattr(
        mlx_medlora.training.optimizer,
        "add",
        lambda left, right: plain(mlx_medlora.training.optimizer.scale(left, 0.5), right),
    )


def alpha_of_another(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.lora.peft_export.peft_settings

    def settings(adapter: Any) -> dict[str, Any]:
        return plain(adapter) | {"lora_alpha": 9}

    patch.setattr(mlx_medlora.lora.peft_export, "peft_settings", settings)


def half_merged(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.lora.merge.merge
    patch.setattr(mlx_medlora.lora.merge, "merge", lambda weight, *rest: (plain(weight, *rest) + weight) / 2)


def cache_off_by_one(patch: pytest.MonkeyPatch) -> None:
    plain = mlx_medlora.gemma.generate.step

    def step(model: Any, tokens: Any, cache: Any) -> mx.array:
        cache.length += 1
        found = plain(model, tokens, cache)
        cache.length -= 1
        return found

    patch.setattr(mlx_medlora.gemma.generate, "step", step)


def packed_head_without_offsets(patch: pytest.MonkeyPatch) -> None:
    def as_linear(self: nn.QuantizedEmbedding, x: mx.array) -> mx.array:
        return mx.quantized_matmul(
            x, self.weight, self.scales, self.biases * 0.99, True, self.group_size, self.bits
        )

    patch.setattr(nn.QuantizedEmbedding, "as_linear", as_linear)


FAULTS: list[tuple[int, Patch, set[int]]] = [
    (1, resized_otherwise, set()),
    (2, supervised_one_late, set()),
    (3, another_eps, set()),
    (4, causal_inside_images, {5, 6, 7, 8, 10, 11}),  # everything that stands on the forward
    (5, prompt_counted, set()),
    (6, scale_without_rank, {7, 8}),  # everything that stands on the adapter's layers
    (7, no_bias_correction, set()),
    (7, mean_of_means, set()),
    (8, alpha_of_another, set()),
    (9, half_merged, set()),
    (10, cache_off_by_one, set()),
    (11, packed_head_without_offsets, set()),
]


@pytest.mark.parametrize(("number", "fault", "built_on_it"), FAULTS, ids=[one[1].__name__ for one in FAULTS])
def test_a_fault_turns_its_own_rung_red(
    number: int, fault: Patch, built_on_it: set[int], sides: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "STEPS", 12)
    fault(monkeypatch)
    found = climb(sides, only=range(1, 12))
    red = {rung.number for rung in found.rungs if rung.status == "failed"}
    assert number in red
    assert red <= {number} | built_on_it
    assert not found.passed


def test_the_first_layer_that_parts_is_named(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = sides.base.text.layers[2]
    layer.mlp.down_proj.weight = layer.mlp.down_proj.weight + 0.01
    found = climb(sides, only=[4])
    assert not found.passed
    assert found.first_parting is not None
    assert found.first_parting.startswith("text layer 2 ")


def test_a_look_ahead_fails_the_probe(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(length: int, window: int, mask: Any = None, types: Any = None) -> Masks:
        seen = mx.ones((1, 1, length, length), mx.bool_)
        return Masks(seen, seen)

    monkeypatch.setattr(mlx_medlora.gemma.model, "make_masks", everything)
    assert PROBES[0](sides).status == "failed"


def test_an_image_that_is_ignored_fails_the_probe(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ours.logits
    monkeypatch.setattr(
        ours, "logits", lambda model, batch, given: plain(model, batch, None if given is None else given * 0)
    )
    assert PROBES[1](sides).status == "failed"


def test_the_command_and_its_certificate(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(steps, "STEPS", 6)
    file = tmp_path / "certificate.json"
    command = ["parity", "--model", str(checkpoint("narrow")), "--output", str(file)]
    assert run([*command, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"] is True
    assert said == json.loads(file.read_text())
    assert {"mlx", "torch", "transformers", "peft"} <= set(said["versions"])
    assert run(command) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_red_rung_is_status_1(
    checkpoint: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "STEPS", 4)
    half_merged(monkeypatch)
    assert run(["parity", "--model", str(checkpoint("narrow"))]) == 1
    assert "the ladder failed: rung 9 (fused weights)" in capsys.readouterr().err


def test_a_quantised_model_is_refused(tiny_medgemma: Path, tmp_path: Path) -> None:
    convert(tiny_medgemma, tmp_path / "four", bits=4)
    with pytest.raises(InputError, match="is quantised, which transformers cannot read"):
        open_sides(tmp_path / "four")


def test_an_adapter_of_another_base_is_refused(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    base = checkpoint("narrow")
    model = load_model(base)
    settings = LoraSettings(rank=2)
    attach(model, settings)
    save_adapter(tmp_path, model, settings, BaseModelId(id="another", fingerprint="f" * 64))
    with pytest.raises(InputError, match="trained on another base"):
        open_sides(base, adapter=tmp_path)


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(InputError, match="parity needs torch and peft, which are not installed") as caught:
        open_sides("tiny-medgemma")
    assert "pip install -c constraints.txt -e '.[parity]'" in (caught.value.hint or "")
