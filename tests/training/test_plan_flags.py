"""A plan does what --prefix-cache and --grad-checkpoint say."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_medlora.gemma.geometry import GEOMETRIES
from mlx_medlora.training.choose import ladder
from mlx_medlora.training.lengths import Lengths
from mlx_medlora.training.plan import make_plan, total_work
from mlx_medlora.training.prefix import prefix_bytes
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.shapes import RowShape, adapter_shape

FOUR = GEOMETRIES["medgemma-4b"]
ROWS = Lengths(train=(RowShape(405, 12, 1),) * 16, val=(RowShape(380, 10, 1),) * 8, images=8, tokenised=24)
PLAIN = TrainSettings(layers="last:4")
KEPT = PLAIN.model_copy(update={"prefix_cache": True})


def test_frozen_layers_are_paid_each_epoch_unless_their_results_are_kept() -> None:
    adapter = adapter_shape(FOUR, PLAIN)
    below = total_work(FOUR, adapter, ROWS.train, checkpointing=False, prefix_cache=True).prefix
    assert below > 0
    plain, kept = (make_plan(FOUR, settings, ROWS, rate=1e13) for settings in (PLAIN, KEPT))
    assert plain.flops == pytest.approx(kept.flops + below)
    assert plain.flops > 3 * kept.flops
    assert plain.seconds is not None
    assert kept.seconds is not None
    assert plain.seconds.prefix == 0
    assert kept.seconds.prefix > 0
    once = plain.seconds.epoch - kept.seconds.epoch
    assert once == pytest.approx(kept.seconds.prefix)  # training and validation rows, each once
    # All rows are paid each epoch, the validation split once more before the first.
    more = plain.seconds.run - kept.seconds.run - (PLAIN.epochs - 1) * once
    assert 0 < more < once


def test_hidden_states_are_on_disk_only_where_asked_for_at_the_lengths_they_are_kept_at() -> None:
    assert make_plan(FOUR, PLAIN, ROWS).disk.prefix == 0
    tokens = [row.tokens for row in (*ROWS.train, *ROWS.val)]
    found = make_plan(FOUR, KEPT, ROWS).disk.prefix
    assert found == prefix_bytes(FOUR, tokens, mx.bfloat16) == (16 * 416 + 8 * 384) * 2560 * 2
    whole = FOUR.model_copy(update={"dtype": "float32"})
    assert make_plan(whole, KEPT, ROWS).disk.prefix == 2 * found


@pytest.mark.parametrize(("wanted", "always"), [("on", True), ("off", False)])
def test_the_ladder_keeps_to_the_checkpointing_that_was_asked_for(wanted: str, always: bool) -> None:
    settings = TrainSettings.model_validate({"grad_checkpoint": wanted})
    rungs = list(ladder(FOUR, settings, ROWS))
    assert [(r.bits, r.settings.batch_size) for r in rungs] == [(4, 1), (4, 2), (4, 4), (8, 4), (None, 4)]
    assert {r.checkpointing for r in rungs} == {always}
    assert [r.peak for r in rungs] == sorted(r.peak for r in rungs)
