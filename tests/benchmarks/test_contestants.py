"""All contestants do the same work, and the operations are counted right."""

from __future__ import annotations

import json
from pathlib import Path

import flops
import numpy as np
import pytest
import reference
import turns

from mlx_medlora.gemma.config import parse_config
from mlx_medlora.lora.settings import LoraSettings
from mlx_medlora.training.shapes import RowShape, adapter_shape
from mlx_medlora.training.work import row_work


def first_loss(spec: str, directory: Path, **options: object) -> float:
    player = turns.Player(spec, spec, {"directory": str(directory)} | options, 2)
    try:
        return player.turn(1).value
    finally:
        player.close()


def test_ours_and_peft_begin_with_the_same_loss(quick_checkpoint: Path) -> None:
    ours = first_loss("ours:Ours", quick_checkpoint)
    assert first_loss("ours:Ours", quick_checkpoint, first_epoch=True) == ours
    for kept in (False, True):
        assert first_loss("peers:Peft", quick_checkpoint, kept=kept) == pytest.approx(ours, rel=1e-6)


def test_ours_and_mlx_vlm_train_the_same_matrices(quick_checkpoint: Path) -> None:
    pytest.importorskip("mlx_vlm")
    import ours
    import peers
    from mlx.utils import tree_flatten

    counted = []
    for contestant in (ours.Ours(str(quick_checkpoint)), peers.MlxVlm(str(quick_checkpoint))):
        contestant.load()
        contestant.prepare()
        trained = tree_flatten(contestant.model.trainable_parameters())
        counted.append(sorted((name, tuple(array.shape)) for name, array in trained))
    assert counted[0] == counted[1]
    assert len(counted[0]) == 2 * 3 * reference.QUICK.layers


def test_our_loss_falls_with_each_step(quick_checkpoint: Path) -> None:
    player = turns.Player("ours", "ours:Ours", {"directory": str(quick_checkpoint)}, 2)
    losses = [player.turn(1).value for _ in range(4)]
    player.close()
    assert losses == sorted(losses, reverse=True)
    assert losses[0] - losses[-1] > 1e-3


def test_every_row_has_one_image_and_its_answer_at_the_end(quick_checkpoint: Path) -> None:
    made, batch = reference.config(reference.QUICK), reference.QUICK.batch
    rows = reference.read(quick_checkpoint)
    assert rows.ids.shape == (batch.rows, batch.length)
    assert ((rows.ids == made.image_token_id).sum(1) == made.mm_tokens_per_image).all()
    assert (rows.supervised.sum(1) == batch.supervised).all()
    assert rows.supervised[:, -batch.supervised :].all()
    assert len(np.unique(rows.pixels[:, 0, 0, 0])) == batch.rows


def test_the_reference_step_is_the_one_described() -> None:
    shape, made = reference.REFERENCE, reference.config(reference.REFERENCE)
    assert (shape.batch.rows, shape.batch.length, shape.batch.supervised) == (4, 221, 12)
    assert (made.text.num_hidden_layers, made.text.hidden_size, made.text.vocab_size) == (8, 512, 65_536)
    assert made.vision is not None
    assert (made.vision.num_hidden_layers, made.vision.image_size, made.mm_tokens_per_image) == (7, 448, 64)


def test_flops_of_a_layer_by_hand() -> None:
    made = reference.config(reference.QUICK).text  # 64 wide, MLP 128, 4 heads and 2 groups of 16, 2 layers
    whole = flops.Work(2, 40, 10, 16, whole_last=True)
    square, halves, mlp = (2 * 80 * 64 * n for n in (64, 2 * 32, 3 * 128))
    scores = 2 * 2 * 80 * 40 * 64
    adapters = 3 * 2 * 80 * 16 * (64 + 64 + 64 + 32 + 64 + 64)
    forward = 2 * square + halves + mlp + scores
    assert flops.layer(made, whole, 1) == forward + adapters + 2 * square + halves + mlp + 2 * scores
    inputs = square + halves  # towards the embedding there is nothing to train
    assert flops.layer(made, whole, 0) == flops.layer(made, whole, 1) - inputs
    least = flops.Work(2, 40, 10, 16)
    assert flops.layer(made, least, 0) == flops.layer(made, whole, 0)
    assert flops.layer(made, least, 1) < flops.layer(made, whole, 1) / 3


def test_flops_of_medgemma_4b_are_the_known_ones(shared: Path) -> None:
    raw = json.loads((shared / "medgemma-configs" / "gemma-3-4b-it" / "config.json").read_text())
    made = parse_config(raw)
    row = flops.Work(1, 400, 8, 16)
    assert flops.tower(made, 1) == pytest.approx(5.5e12, rel=0.02)
    assert flops.step(made, row) == pytest.approx(5.1e12, rel=0.03)


@pytest.mark.parametrize("shape", [reference.QUICK, reference.REFERENCE])
def test_flops_are_those_that_plan_counts(shape: reference.Shape) -> None:
    made, batch = reference.config(shape), shape.batch
    adapter = adapter_shape(made, LoraSettings(**reference.ADAPTER, target=reference.TARGETS))
    row = RowShape(batch.length, batch.supervised, 1)
    planned = row_work(made, adapter, row, checkpointing=False)
    counted = flops.Work(batch.rows, batch.length, batch.rows * batch.supervised, adapter.rank)
    assert batch.rows * planned.epoch == flops.step(made, counted)
    assert batch.rows * planned.tower == flops.tower(made, batch.rows)
