"""Two real processes under mlx.launch, and the bookkeeping that needs none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mlx_medlora.gemma  # noqa: F401  (the BLAS before MLX)

# isort: split
import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_medlora.errors import InputError, Interrupted
from mlx_medlora.training.buckets import places
from mlx_medlora.training.events import Step
from mlx_medlora.training.ranks import ALONE, Ranks
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
# Five rows in batches of four and one: shares of two and two, one and none.
SETTINGS = TrainSettings(
    epochs=2, batch_size=4, accumulate=2, rank=2, warmup=0.0, dropout=0.0, checkpoint_every=0
)
SHARED = SETTINGS.model_copy(update={"shards": 2})  # what two ranks compute is the same on one


def options(settings: TrainSettings) -> list[str]:
    default = TrainSettings()
    changed = {k: v for k, v in settings.model_dump().items() if v != getattr(default, k)}
    return [part for k, v in changed.items() for part in (f"--{k.replace('_', '-')}", str(v))]


def launcher(count: int) -> list[str]:
    """`mlx.launch` with ports that nobody uses just now; one process alone needs no launcher."""
    if count == 1:
        return [sys.executable]
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
    """To the last bit, and so to 1e-6."""
    one, two = load_file(first / "adapters.safetensors"), load_file(second / "adapters.safetensors")
    assert one.keys() == two.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name], err_msg=name)


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_two_ranks_give_the_adapter_of_one(
    tiny_medgemma: Path, data: Path, tmp_path: Path, dropout: float
) -> None:
    settings = SHARED.model_copy(update={"dropout": dropout})
    for count in (1, 2):
        output = tmp_path / str(count)
        ended = train(count, tiny_medgemma, data, output, settings, "--json")
        # one object: only the first rank speaks
        assert "val_accuracy" in json.loads(ended.stdout), ended.stderr
    assert_same_adapter(tmp_path / "1", tmp_path / "2")
    assert_same_adapter(tmp_path / "1/checkpoints/last", tmp_path / "2/checkpoints/last")
    assert metrics(tmp_path / "1") == metrics(tmp_path / "2")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_shards_two_ranks_differ_from_one_by_rounding(
    tiny_medgemma: Path, data: Path, tmp_path: Path
) -> None:
    """AdamW divides a gradient by its own size: where that is nearly zero, its rounding shows."""
    run_training(tiny_medgemma, data, tmp_path / "one", SETTINGS)
    train(2, tiny_medgemma, data, tmp_path / "two", SETTINGS)
    one, two = (load_file(tmp_path / name / "adapters.safetensors") for name in ("one", "two"))
    gaps = np.concatenate([np.abs(values - two[name]).ravel() for name, values in one.items()])
    assert (gaps > 1e-6).mean() < 0.01
    for alone, shared in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert {key: alone[key] for key in ("event", "epoch")} == {k: shared[k] for k in ("event", "epoch")}
        for key in ("loss", "gradient_norm", "val_loss", "tokens", "rows"):
            if alone.get(key) is not None:
                assert shared[key] == pytest.approx(alone[key], rel=1e-5), key


# A rank fails in one way or another after so many updates; the others must not wait for it.
FAULTY = """
import os, signal, sys
from mlx_medlora.cli.app import run
from mlx_medlora.errors import MedloraError
from mlx_medlora.training.trainer import Trainer

how, rank, steps, *arguments = sys.argv[1:]
update = Trainer.update

def faulty(self, window, epoch):
    if os.environ.get("MLX_RANK", "0") == rank and self.outcome.steps == int(steps):
        if how == "die":
            os._exit(9)
        if how == "raise":
            raise MedloraError("its image is gone")
        signal.raise_signal(signal.SIGINT)
    return update(self, window, epoch)

Trainer.update = faulty
signal.signal(signal.SIGTERM, lambda *_: None)  # mlx.launch's may come before the print below
status = run(arguments)
print(f"rank {os.environ.get('MLX_RANK', '0')} ends with {status}", flush=True)
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
    settings = SETTINGS.model_copy(update={"epochs": 3, "accumulate": 1})
    script, output = tmp_path / "faulty.py", tmp_path / "adapter"
    script.write_text(FAULTY)
    place = ["--model", str(tiny_medgemma), "--data", str(data), "--output", str(output)]
    ended = launch(2, str(script), how, "1", "2", "train", *place, *options(settings))
    assert SAID[how] in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    if how == "signal":
        assert ended.stdout.count("ends with 130") == 2
    assert not output.exists()
    # the run began in two shards, and one process goes on in two
    train(1, tiny_medgemma, data, output, settings, "--resume")
    whole = settings.model_copy(update={"shards": 2})
    train(1, tiny_medgemma, data, tmp_path / "whole", whole)
    assert_same_adapter(output, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_of_one_goes_on_with_two(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    output, script = tmp_path / "adapter", tmp_path / "faulty.py"
    script.write_text(FAULTY)
    place = ["--model", str(tiny_medgemma), "--data", str(data), "--output", str(output)]
    train(1, tiny_medgemma, data, tmp_path / "whole", SHARED)
    ended = launch(1, str(script), "signal", "0", "0", "train", *place, *options(SHARED))
    assert "interrupted after 1 of 2 updates" in ended.stderr, ended.stderr
    ended = train(2, tiny_medgemma, data, output, SHARED, "--resume")
    assert "continuing after update 1 of 2" in ended.stderr, ended.stderr
    assert_same_adapter(output, tmp_path / "whole")


def test_more_shards_than_ranks_are_added_in_their_order() -> None:
    """As by one rank: float32 sums depend on their order, and these four do."""
    values = [1e8, 1.0, -1e8, 1.0]
    tree = {"a": mx.zeros(1)}
    shares = [(mx.array(value), {"a": mx.array([value])}) for value in values]
    found = ALONE.sum(shares, 4, tree)
    assert found[0]["a"].item() == 1.0
    # two ranks hold shards 0 and 2, 1 and 3
    rank = Ranks()
    rank.size, rank._open = 2, lambda **_: (False, 2.0, 4.0)  # type: ignore[method-assign, assignment]
    gathered = mx.array([[values[0]], [values[2]], [values[1]], [values[3]]])
    rank._exchanged = lambda how, array: gathered  # type: ignore[method-assign]
    assert rank.sum(shares[::2], 2, tree)[0]["a"].item() == 1.0


def test_shares_differ_by_one_row_at_most() -> None:
    ranks = [Ranks(), Ranks(), Ranks()]
    for number, rank in enumerate(ranks):
        rank.rank, rank.size = number, 3
    assert [rank.rows([10, 11, 12, 13, 14]) for rank in ranks] == [[10, 13], [11, 14], [12]]
    assert ranks[2].rows([10]) == []
    assert [list(places(5, shard, 3)) for shard in range(3)] == [[0, 3], [1, 4], [2]]
    assert [list(places(2, shard, 3, before=1)) for shard in range(3)] == [[], [0], [1]]
    assert list(ranks[1].shards(6)) == [1, 4]
    with pytest.raises(InputError, match="--batch-size 2 is shared by 3 ranks"):
        ranks[0].refuse_small(2)
    for shards in (4, 9):  # not a multiple, more than rows
        with pytest.raises(InputError, match=f"--shards {shards} does not fit --batch-size 8 on 3 ranks"):
            ranks[0].refuse_small(8, shards)


def test_alone_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Ranks.join().size == 1
    gradients = {"a": object()}
    assert ALONE.sum([(mx.array(1.5), gradients)], 3, {}) == (gradients, 1.5, 3)
    assert ALONE.total(2.5, 4) == (2.5, 4)
    assert ALONE.any(True)
    assert not ALONE.any(False)
    assert ALONE.broadcast(b"x") == b"x"


class Peers(Ranks):
    """One of two ranks; counts how often it tells the other that it has failed."""

    told = 0

    def fail(self) -> None:
        type(self).told += not self.failed
        self.failed = True


@pytest.mark.parametrize("resume", [False, True])
def test_ctrl_c_while_a_run_is_set_up_is_told_to_the_others(
    tiny_medgemma: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    """Also of a resumed run, where it becomes Interrupted, which all ranks otherwise raise together."""
    from mlx_medlora.training import run

    if resume:
        stop = [lambda event: signal.raise_signal(signal.SIGINT) if isinstance(event, Step) else None]
        with pytest.raises(Interrupted):
            run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, listeners=stop)

    def interrupt(*_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Peers, "told", 0)
    monkeypatch.setattr(run.Ranks, "join", classmethod(lambda cls: Peers()))
    monkeypatch.setattr(run, "set_up", interrupt)
    with pytest.raises(Interrupted if resume else KeyboardInterrupt):
        run_training(tiny_medgemma, data, tmp_path / "a", SETTINGS, resume=resume)
    assert Peers.told == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_ranks_replay_the_same_rows(tiny_medgemma: Path, data: Path, tmp_path: Path) -> None:
    general = tmp_path / "general.jsonl"
    rows = [{"input": f"Say {'again ' * n}how.", "output": f"So {'and so ' * n}it is."} for n in range(9)]
    general.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SHARED.model_copy(update={"replay": str(general), "replay_share": 0.4})
    train(1, tiny_medgemma, data, tmp_path / "one", settings)
    ended = train(2, tiny_medgemma, data, tmp_path / "two", settings, "--json")
    assert json.loads(ended.stdout)["data"]["replay"]["rows"] == 3, ended.stderr
    assert_same_adapter(tmp_path / "one", tmp_path / "two")
    for alone, shared in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        for key in ("replay_rows", "replay_tokens", "rows"):
            assert alone.get(key) == shared.get(key)
