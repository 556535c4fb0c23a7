"""Two real processes under mlx.launch, and the bookkeeping that needs none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError, Interrupted
from mlx_medlora.training.events import Event, Step
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
# Five rows in batches of four and one: shares of two and two, one and none. The recipe's rate: AdamW divides
# a gradient by its own size, so where one is nearly zero, rounding shows in the adapter, scaled by the rate.
SETTINGS = TrainSettings(
    epochs=2, batch_size=4, accumulate=2, rank=2, warmup=0.0, dropout=0.0, checkpoint_every=0
)
# Below the recipe's rate: two ranks to the third update and one from there on left one element of 256
# 1.04e-6 away from one rank throughout at 2e-4.
CONTINUED = SETTINGS.model_copy(update={"lr": 1e-4})


def options(settings: TrainSettings) -> list[str]:
    default = TrainSettings()
    changed = {k: v for k, v in settings.model_dump().items() if v != getattr(default, k)}
    return [part for k, v in changed.items() for part in (f"--{k.replace('_', '-')}", str(v))]


def launcher(count: int) -> list[str]:
    """`mlx.launch` with ports that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = str(Path(sys.executable).with_name("mlx.launch"))
    return [program, "-n", str(count), "--backend", "ring", "--starting-port", port, "--", sys.executable]


def launch(count: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher(count), *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=250,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def train(
    count: int, model: Path, data: Path, output: Path, settings: TrainSettings, *more: str
) -> subprocess.CompletedProcess[str]:
    place = ["--model", str(model), "--data", str(data), "--output", str(output)]
    return launch(count, "-m", "mlx_medlora.cli.app", "train", *place, *options(settings), *more)


def assert_same_adapter(first: Path, second: Path) -> None:
    one, two = load_file(first / "adapters.safetensors"), load_file(second / "adapters.safetensors")
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], atol=1e-6, err_msg=name)


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_ranks_give_the_adapter_of_one(
    tiny_medgemma: Path, data: Path, tmp_path: Path, dropout: float
) -> None:
    settings = SETTINGS.model_copy(update={"dropout": dropout})
    run_training(tiny_medgemma, data, tmp_path / "one", settings)
    ended = train(2, tiny_medgemma, data, tmp_path / "two", settings, "--json")
    assert "val_accuracy" in json.loads(ended.stdout), ended.stderr  # one object: only the first rank speaks
    assert_same_adapter(tmp_path / "one", tmp_path / "two")
    assert_same_adapter(tmp_path / "one/checkpoints/last", tmp_path / "two/checkpoints/last")
    for alone, shared in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert {key: alone[key] for key in ("event", "epoch")} == {k: shared[k] for k in ("event", "epoch")}
        for key in ("loss", "gradient_norm", "val_loss", "tokens", "rows"):
            if alone.get(key) is not None:
                assert shared[key] == pytest.approx(alone[key], rel=1e-5), key


# The second rank fails in one way or another at the third update; the first must not wait for it.
FAULTY = """
import os, signal, sys
from mlx_medlora.cli.app import run
from mlx_medlora.errors import MedloraError
from mlx_medlora.training.trainer import Trainer

how, *arguments = sys.argv[1:]
update = Trainer.update

def faulty(self, window, epoch):
    if os.environ["MLX_RANK"] == "1" and self.outcome.steps == 2:
        if how == "die":
            os._exit(9)
        if how == "raise":
            raise MedloraError("its image is gone")
        signal.raise_signal(signal.SIGINT)
    return update(self, window, epoch)

Trainer.update = faulty
status = run(arguments)
print(f"rank {os.environ['MLX_RANK']} ends with {status}", flush=True)
sys.exit(status)
"""
SAID = {
    "die": "rank 0 of 2 lost the others: ",
    "raise": "rank 0 of 2 stopped because another one failed",
    "signal": "interrupted after 3 of 6 updates; all are saved",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("how", ["die", "raise", "signal"])
def test_all_ranks_end_together_and_one_goes_on(
    tiny_medgemma: Path, data: Path, tmp_path: Path, how: str
) -> None:
    settings = CONTINUED.model_copy(update={"epochs": 3, "accumulate": 1})
    script, output = tmp_path / "faulty.py", tmp_path / "adapter"
    script.write_text(FAULTY)
    place = ["--model", str(tiny_medgemma), "--data", str(data), "--output", str(output)]
    ended = launch(2, str(script), how, "train", *place, *options(settings))
    assert SAID[how] in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    if how == "signal":
        assert ended.stdout.count("ends with 130") == 2
    assert not output.exists()
    run_training(tiny_medgemma, data, output, settings, resume=True)
    run_training(tiny_medgemma, data, tmp_path / "whole", settings)
    assert_same_adapter(output, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_one_goes_on_with_two(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "adapter"
    run_training(tiny_medgemma, data, tmp_path / "whole", SETTINGS)

    def stop(event: Event) -> None:
        if isinstance(event, Step):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        run_training(tiny_medgemma, data, output, SETTINGS, listeners=[stop])
    ended = train(2, tiny_medgemma, data, output, SETTINGS, "--resume")
    assert "continuing after update 1 of 2" in ended.stderr, ended.stderr
    assert_same_adapter(output, tmp_path / "whole")


def test_shares_differ_by_one_row_at_most() -> None:
    ranks = [Ranks(), Ranks(), Ranks()]
    for number, rank in enumerate(ranks):
        rank.rank, rank.size = number, 3
    assert [rank.rows([10, 11, 12, 13, 14]) for rank in ranks] == [[10, 13], [11, 14], [12]]
    assert ranks[2].rows([10]) == []
    with pytest.raises(InputError, match="--batch-size 2 is shared by 3 ranks"):
        ranks[0].refuse_small(2)


def test_alone_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.join().size == 1
    gradients = {"a": object()}
    assert ALONE.sum(gradients, 1.5, 3, {}) == (gradients, 1.5, 3)
    assert ALONE.total(2.5, 4) == (2.5, 4)
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.broadcast(b"x") == b"x"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_replay_the_same_rows(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    rows = [{"input": f"Say {'again ' * n}how.", "output": f"So {'and so ' * n}it is."} for n in range(9)]
    general.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # below the recipe's rate: at 2e-4 rounding left one element of 256 1.08e-6 away
    settings = SETTINGS.model_copy(update={"lr": 1e-4, "replay": str(general), "replay_share": 0.4})
    run_training(tiny_medgemma, data, tmp_path / "one", settings)
    ended = train(2, tiny_medgemma, data, tmp_path / "two", settings, "--json")
    assert json.loads(ended.stdout)["data"]["replay"]["rows"] == 3, ended.stderr
    assert_same_adapter(tmp_path / "one", tmp_path / "two")
    for alone, shared in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for key in ("replay_rows", "replay_tokens", "rows"):
            assert alone.get(key) == shared.get(key)
