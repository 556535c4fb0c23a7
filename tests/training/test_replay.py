"""General rows trained on beside the cases."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from mlx_medlora.cases.questions import GENERAL
from mlx_medlora.errors import InputError, Interrupted
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.processor import Encoder, load_processor
from mlx_medlora.training.batches import Buckets
from mlx_medlora.training.dry_run import dry_run
from mlx_medlora.training.events import Event, Plan, Step
from mlx_medlora.training.lengths import read_lengths
from mlx_medlora.training.replay import read_replay, replayed
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings
from mlx_medlora.training.setup import set_up


@pytest.fixture
def general(tmp_path: Path) -> Path:
    """Nine rows of different lengths."""
    path = tmp_path / "general.jsonl"
    rows = [{"input": f"Say {'again ' * n}how.", "output": f"So {'and so ' * n}it is."} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(general: Path, **changes: object) -> TrainSettings:
    values = {"epochs": 2, "batch_size": 2, "rank": 2, "warmup": 0.0, "replay": str(general)}
    return TrainSettings.model_validate(values | {"replay_share": 0.4} | changes)


@pytest.mark.parametrize(
    ("cases", "share", "rows"), [(16, 0.2, 4), (5, 0.4, 3), (80, 0.2, 20), (100, 0.5, 100), (3, 0.01, 1)]
)
def test_the_share_is_of_all_rows_of_an_epoch(cases: int, share: float, rows: int) -> None:
    assert replayed(cases, share) == rows


def test_the_seed_alone_draws_the_rows(general: Path) -> None:
    def drawn(seed: int) -> list[int]:
        found = read_replay(settings(general, seed=seed), 5)
        assert found is not None
        return [row.line for row in found.rows]

    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(seed)) for seed in range(8)}) > 1
    assert all(len(set(drawn(seed))) == 3 for seed in range(8))


def test_each_epoch_has_the_rows_once_in_the_same_shapes(
    tiny_medgemma: Path, data: Path, general: Path
) -> None:
    setup = set_up(tiny_medgemma, data, settings(general))
    assert [example.replay for example in setup.train] == [False] * 5 + [True] * 3
    assert all(not example.images for example in setup.train[5:])
    buckets = Buckets(setup.train, 2)
    epochs = [buckets.epoch(0, epoch) for epoch in (1, 2, 3)]
    assert all(sorted(row for batch in epoch for row in batch) == list(range(8)) for epoch in epochs)
    shapes = [
        sorted(buckets.shape([setup.train[row] for row in batch]) for batch in epoch) for epoch in epochs
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_general_rows_are_counted_by_themselves_and_validation_has_none(
    tiny_medgemma: Path, data: Path, general: Path, tmp_path: Path
) -> None:
    told: list[Event] = []
    output, plain = tmp_path / "adapter", tmp_path / "plain"
    result = run_training(tiny_medgemma, data, output, settings(general), listeners=[told.append])
    without = run_training(tiny_medgemma, data, plain, settings(general, replay=None))
    assert next(event for event in told if isinstance(event, Plan)).replay_rows == 3
    about = result.record.data
    steps = [event for event in told if isinstance(event, Step)]
    for epoch in (1, 2):
        own = [step for step in steps if step.epoch == epoch]
        assert sum(step.rows for step in own) == 8
        assert sum(step.replay_rows or 0 for step in own) == 3
        assert sum(step.replay_tokens or 0 for step in own) == about["replay"]["supervised_tokens"]
    assert about["train"] == without.record.data["train"]
    assert about["train"]["rows"] == 5
    assert {key: about["replay"][key] for key in ("file", "rows", "of")} == {
        "file": "general.jsonl",
        "rows": 3,
        "of": 9,
    }
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert sum(row.get("replay_rows", 0) for row in rows) == 6
    assert "replay_rows" not in (plain / "metrics.jsonl").read_text()
    assert result.record.before == without.record.before  # validation is on the cases alone
    assert (output / "adapters.safetensors").read_bytes() != (plain / "adapters.safetensors").read_bytes()
    assert str(tmp_path) not in (output / "run.json").read_text()


def test_resume_gives_the_same_bytes_and_refuses_a_changed_file(
    tiny_medgemma: Path, data: Path, general: Path, tmp_path: Path
) -> None:
    whole, output = tmp_path / "whole", tmp_path / "adapter"
    run_training(tiny_medgemma, data, whole, settings(general))

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, output, settings(general), listeners=[stop])
    text = general.read_text()
    general.write_text(text.replace("it is", "it was"))
    with pytest.raises(InputError, match=r"changed since the checkpoint: data \(replay\)"):
        run_training(tiny_medgemma, data, output, settings(general), resume=True)
    with pytest.raises(InputError, match=r"data \(replay\)"):
        run_training(tiny_medgemma, data, output, settings(general, replay=None), resume=True)
    moved = general.with_name("moved.jsonl")
    moved.write_text(text)
    with pytest.raises(InputError, match=r"replay_share was 0\.4, is 0\.3"):
        run_training(tiny_medgemma, data, output, settings(moved, replay_share=0.3), resume=True)
    general.write_text(text)
    run_training(tiny_medgemma, data, output, settings(general), resume=True)
    for name in ("adapters.safetensors", "metrics.jsonl"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_dry_run_and_plan_count_them(tiny_medgemma: Path, data: Path, general: Path) -> None:
    chosen = settings(general)
    seen = dry_run(tiny_medgemma, data, chosen)
    assert (seen.train_rows, seen.replay_rows, seen.updates) == (8, 3, 8)
    config = read_config(tiny_medgemma)
    exact = read_lengths(data, config, chosen, Encoder(load_processor(tiny_medgemma), config))
    trained = set_up(tiny_medgemma, data, chosen).train
    assert [row.tokens for row in exact.train] == [len(example) for example in trained]
    assert exact.exact
    assert len(read_lengths(data, config, chosen, None).train) == 8


def test_too_few_rows_are_refused_with_the_share_that_fits(general: Path) -> None:
    with pytest.raises(InputError, match=r"a share of 0\.4 beside 100 cases takes 67 rows") as e:
        read_replay(settings(general), 100)
    assert "--replay-share 0.082" in str(e.value.hint)
    assert read_replay(settings(general, replay_share=0.082), 100) is not None


def test_the_questions_of_the_measure_are_refused(general: Path) -> None:
    row = json.loads(GENERAL.read_text().splitlines()[5])
    asked = {"instruction": row["input"].upper(), "output": "Other words."}
    general.write_text(general.read_text() + json.dumps(asked) + "\n")
    with pytest.raises(InputError, match=r"general\.jsonl:10: .*by which forgetting is measured"):
        read_replay(settings(general), 5)


def test_a_row_longer_than_the_limit_is_refused_by_its_line(
    tiny_medgemma: Path, data: Path, general: Path
) -> None:
    general.write_text(json.dumps({"input": "Why? " * 3000, "output": "So."}) + "\n")
    with pytest.raises(InputError, match=r"general\.jsonl:1: the row takes \d+ tokens; the limit is 2048"):
        set_up(tiny_medgemma, data, settings(general, replay_share=0.1))
