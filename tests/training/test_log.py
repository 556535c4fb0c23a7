from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from mlx_medlora.errors import InputError
from mlx_medlora.training.events import Epoch, Event, Features, Plan, Resumed, Step
from mlx_medlora.training.log import MetricsFile, ProgressBar, accuracy

PLAN = Plan(rows=16, validation_rows=8, epochs=3, steps=12, trainable=12_345)
STEP = Step(3, 1, 0.4567, 1e-4, 2.5, 30, 4, 1.25, 60.0, 3 * 2**30)
BEFORE = Epoch(0, None, 2.0, 7.389, None, False, 1.0)
AFTER = Epoch(1, 0.5, 0.25, 1.284, 0.875, True, 9.0, (0.5291, 0.9776))


def said(terminal: bool, *events: Event) -> str:
    stream = io.StringIO()
    with ProgressBar(Console(file=stream, force_terminal=terminal, width=200)) as bar:
        for event in events:
            bar(event)
            bar.bar.refresh()
    return stream.getvalue()


def test_metrics_are_one_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write = MetricsFile(tmp_path)
    for event in (Features(1, 2), PLAN, BEFORE, STEP, AFTER):
        write(event)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["event"] for row in rows] == ["epoch", "step", "epoch"]
    assert rows[1]["loss"] == 0.4567
    assert rows[1]["learning_rate"] == 1e-4
    assert rows[0]["train_loss"] is None
    assert rows[2]["val_accuracy"] == 0.875
    assert rows[2]["val_accuracy_interval"] == [0.5291, 0.9776]
    times = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert times[1] == {
        "event": "step",
        "step": 3,
        "epoch": 1,
        "rows_per_second": 1.25,
        "seconds_left": 60.0,
        "peak_memory": 3 * 2**30,
    }
    assert times[2] == {"event": "epoch", "epoch": 1, "seconds": 9.0}
    assert not any(name in row for row in rows for name in ("rows_per_second", "peak_memory", "seconds"))


def test_the_log_goes_back_to_a_checkpoint(tmp_path: Path) -> None:
    write = MetricsFile(tmp_path)
    write(BEFORE)
    sizes = write.sizes()
    before = (tmp_path / "metrics.jsonl").read_bytes()
    write(STEP)
    write.cut(sizes)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    (tmp_path / "timings.jsonl").write_bytes(b"")
    with pytest.raises(InputError, match=r"timings.jsonl: has 0 bytes, \d+ were in it before"):
        write.cut(sizes)


def test_going_on_is_said_with_what_is_not_as_it_was() -> None:
    text = said(False, Resumed(5, 12, ("mlx was 0.32.3, is 0.32.4: the last digits may differ",)))
    assert text.splitlines() == [
        "continuing after update 5 of 12",
        "mlx was 0.32.3, is 0.32.4: the last digits may differ",
    ]


def test_the_bar_shows_loss_rate_time_and_memory() -> None:
    text = said(True, Features(2, 4), PLAN, BEFORE, STEP)
    for part in ("looking at images", "epoch 1/3", "3/12", "loss 0.4567", "1.25 rows/s", "3.00 GiB"):
        assert part in text, part


def test_without_a_terminal_a_line_for_each_epoch() -> None:
    lines = said(False, Features(2, 4), PLAN, BEFORE, STEP, AFTER).splitlines()
    assert lines == [
        "12,345 trainable parameters; 16 rows, 8 for validation; 12 updates",
        "before training: validation loss 2.0000, perplexity 7.389",
        "epoch 1: train loss 0.5000, validation loss 0.2500, perplexity 1.284, accuracy 87.5 % (52.9-97.8), "
        "best so far",
    ]


@pytest.mark.parametrize(
    ("share", "interval", "text"),
    [
        (0.9996, (0.9991, 0.99999), "accuracy > 99.9 % (99.9 to > 99.9)"),
        (0.0, (0.0, 0.2), "accuracy 0.0 % (0.0-20.0)"),
        (1.0, None, "accuracy 100.0 %"),
    ],
)
def test_no_rounding_says_that_everything_was_right(
    share: float, interval: tuple[float, float] | None, text: str
) -> None:
    assert accuracy(share, interval) == text


def test_no_validation_is_said() -> None:
    text = said(False, Plan(16, 0, 3, 12, 10), Epoch(0, None, None, None, None, False, 0.0))
    assert "no validation split: the last epoch's adapter counts as the best" in text
    assert "before training: nothing measured" in text
