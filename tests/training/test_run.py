"""From a dataset directory to an adapter directory, on the embedded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest
from quick_runs import SETTINGS, weights
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.evaluation.adapters import caveat, record_of
from mlx_medlora.lora.load import load_model
from mlx_medlora.training.dry_run import dry_run
from mlx_medlora.training.events import Accuracy, Epoch, Event, Features, Plan, Step
from mlx_medlora.training.run import Validation, run_training
from mlx_medlora.training.trainer import Trainer

ANSWERS = ("CORRECT - Treatment matches imaging findings", "ERROR - Surgery for a normal film")


def test_the_adapter_directory_is_complete(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    seen: list[Event] = []
    result = run_training(tiny_medgemma, data, output, SETTINGS, listeners=[seen.append])
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert files == [
        "adapter_config.json",
        "adapters.safetensors",
        "checkpoints/last/adapter_config.json",
        "checkpoints/last/adapters.safetensors",
        "checkpoints/last/training_data.json",
        "metrics.jsonl",
        "run.json",
        "timings.jsonl",
    ]
    assert [type(event) for event in seen[-1:]] == [Epoch]
    assert [event for event in seen if isinstance(event, Features)][-1] == Features(3, 3)
    assert len([event for event in seen if isinstance(event, Step)]) == 6
    run = json.loads((output / "run.json").read_text())
    assert run == result.record.model_dump(mode="json")
    assert run["settings"] == json.loads(SETTINGS.model_dump_json())
    assert run["updates"] == 6
    assert run["data"]["train"]["rows"] == 5
    assert run["val_loss"] == min(epoch["val_loss"] for epoch in run["epochs"])
    assert run["trainable_parameters"] == sum(array.size for array in load_file(output / files[1]).values())
    assert str(tmp_path) not in "".join((output / name).read_text() for name in files if "json" in name)
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 6 + 3


def test_the_adapter_answers_otherwise(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS)
    ids = mx.array([[2, 5, 9, 12]])
    base, tuned = load_model(tiny_medgemma), load_model(tiny_medgemma, tmp_path / "adapter")
    assert not mx.allclose(base(ids), tuned(ids), atol=1e-4)
    assert mx.array_equal(tuned(ids), load_model(tiny_medgemma, tmp_path / "adapter")(ids))


def test_the_best_is_at_the_top_and_the_last_beside_it(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steady = SETTINGS.model_copy(update={"schedule": "constant"})
    run_training(tiny_medgemma, data, tmp_path / "short", steady.model_copy(update={"epochs": 1}))
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(Trainer, "validation_loss", lambda self, epoch: next(losses))
    record = run_training(tiny_medgemma, data, tmp_path / "long", steady).record
    assert (record.best_epoch, record.val_loss) == (1, 1.0)
    assert weights(tmp_path / "long") == weights(tmp_path / "short")
    assert weights(tmp_path / "long") != weights(tmp_path / "long" / "checkpoints" / "last")


def test_same_seed_same_bytes(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        run_training(tiny_medgemma, data, tmp_path / name, SETTINGS)
    run_training(tiny_medgemma, data, tmp_path / "three", SETTINGS.model_copy(update={"seed": 1}))
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert weights(tmp_path / "one") != weights(tmp_path / "three")


def test_accuracy_comes_from_the_validator(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    given: list[Validation] = []
    accuracies = iter([0.5, 0.75, 1.0])

    def validate(validation: Validation) -> Accuracy:
        given.append(validation)
        return Accuracy(next(accuracies), (0.25, 1.0))

    result = run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS, validate=validate)
    assert len(given) == 3
    assert given[0].split == "val"
    assert {path.name for path in given[0].features} == {"a.png", "b.png", "c.png"}
    assert result.record.before is not None
    assert result.record.before["val_accuracy"] == 0.5
    assert result.record.before["val_accuracy_interval"] == (0.25, 1.0)
    assert [epoch["val_accuracy"] for epoch in result.record.epochs] == [0.75, 1.0]
    assert result.record.val_accuracy_interval == (0.25, 1.0)


def test_one_epoch_was_chosen_by_nothing(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    once = SETTINGS.model_copy(update={"epochs": 1})
    record = run_training(tiny_medgemma, data, tmp_path / "adapter", once).record
    assert (record.best_epoch, record.best_by) == (1, "there being no other")
    assert record.val_loss is not None
    found = record_of(tmp_path / "adapter")
    assert caveat(found, found["data"]["val"]["sha256"], "val") is None


def test_without_validation_it_says_so(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    (data / "val.jsonl").unlink()
    output = tmp_path / "adapter"
    record = run_training(tiny_medgemma, data, output, SETTINGS).record
    assert (record.best_epoch, record.val_loss, record.before) == (2, None, None)
    assert record.best_by == "the last epoch, there being no validation split"
    assert weights(output) == weights(output / "checkpoints" / "last")
    with pytest.raises(InputError, match=r"patience needs a validation split \(val.jsonl\)"):
        run_training(tiny_medgemma, data, tmp_path / "b", SETTINGS.model_copy(update={"patience": 1}))


def test_another_base_refuses_the_adapter(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS)
    other = tmp_path / "other"
    shutil.copytree(tiny_medgemma, other)
    file = str(next(other.glob("*.safetensors")))
    tensors = mx.load(file)
    assert isinstance(tensors, dict)
    name = next(name for name in sorted(tensors) if name.endswith("layers.0.self_attn.k_proj.weight"))
    mx.eval(tensors)  # before the file beneath them is written again
    mx.save_safetensors(file, {**tensors, name: tensors[name] * 2}, metadata={"format": "pt"})
    with pytest.raises(InputError, match="trained on another base"):
        load_model(other, tmp_path / "adapter")


def fail_at(kind: type) -> Callable[[Event], None]:
    def listen(event: Event) -> None:
        if isinstance(event, kind):
            raise MedloraError("stop")

    return listen


@pytest.mark.parametrize("kind", [Features, Plan, Step, Epoch])
def test_a_failure_leaves_nothing(tiny_medgemma: Path, data: Path, tmp_path: Path, kind: type) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MedloraError, match="stop"):
        run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS, listeners=[fail_at(kind)])
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_input_is_said_before_the_model_loads(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_medlora.training.setup.load_base", lambda *_: pytest.fail("loaded"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        run_training(tiny_medgemma, data, tmp_path / "full", SETTINGS)
    with pytest.raises(InputError, match="no such model directory"):
        run_training(tmp_path / "absent", data, tmp_path / "adapter", SETTINGS)
    with pytest.raises(InputError, match=r"train\.jsonl:1: case 'case0' takes \d+ tokens; the limit is 9"):
        run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS.model_copy(update={"max_length": 9}))
    (data / "train.jsonl").write_text("\n")
    with pytest.raises(InputError, match="'train' is empty"):
        run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS)
    (data / "train.jsonl").unlink()
    with pytest.raises(InputError, match=r"no training split \(train.jsonl\)"):
        run_training(tiny_medgemma, data, tmp_path / "adapter", SETTINGS)


def test_dry_run_shows_what_is_supervised(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = dry_run(tiny_medgemma, data, SETTINGS)
    assert sorted(tmp_path.rglob("*")) == before
    assert shown.supervised_text.startswith(ANSWERS[0])
    assert shown.supervised_text.removeprefix(ANSWERS[0]).strip() == "<end_of_turn>"
    assert (shown.case_id, shown.where) == ("case0", "train.jsonl:1")
    assert (shown.train_rows, shown.val_rows, shown.updates) == (5, 2, 6)
    assert shown.loss > 0
    assert shown.gradient_norm > 0
    images = [token for token in shown.tokens if token.count > 1]
    assert len(images) == 1
    assert sum(token.count for token in shown.tokens) <= shown.longest_row


def test_dry_run_steps_on_the_longest_row(tiny_medgemma: Path, data: Path) -> None:
    """The step that would run out of memory is the one to try."""
    settings = SETTINGS.model_copy(update={"batch_size": 1, "dropout": 0.0})
    short = dry_run(tiny_medgemma, data, settings)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    rows[3]["input"] += " The film is normal." * 20
    (data / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    long = dry_run(tiny_medgemma, data, settings)
    assert long.longest_row > short.longest_row + 50
    assert long.loss != short.loss


def test_a_case_that_is_trained_on_and_held_out_is_refused(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    first = (data / "train.jsonl").read_text().splitlines()[0]
    (data / "test.jsonl").write_text(first + "\n")
    with pytest.raises(InputError, match=r"test\.jsonl:1: .* is in the split 'train' too"):
        run_training(tiny_medgemma, data, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
