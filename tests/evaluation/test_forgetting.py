"""What an adapter does to answers it was not trained on."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.cases.questions import read_questions
from mlx_medlora.evaluation.drift import divergence
from mlx_medlora.evaluation.forgetting import measure
from mlx_medlora.gemma.processor import Encoder
from mlx_medlora.lora.load import load, load_model
from mlx_medlora.training.run import run_training
from mlx_medlora.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "adapters" / "reference"
sys.path.insert(0, str(ROOT / "benchmarks"))

from bench_replay import replayed_and_held  # noqa: E402


def test_divergence_is_the_sum_over_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.normal(0, 3, (2, 5, 300))
    whole = [np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (p, q)]
    expected = (whole[0] * np.log(whole[0] / whole[1])).sum(-1)
    found = divergence(mx.array(p, mx.float32), mx.array(q, mx.float32))
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5)
    assert np.array(divergence(mx.array(p), mx.array(p))).tolist() == [0.0] * 5


def test_the_measure_equals_two_models_read_apart(tiny_medgemma: Path) -> None:
    model, processor = load(tiny_medgemma, REFERENCE)
    encoder, base = Encoder(processor, model.config), load_model(tiny_medgemma)
    found = measure(model, encoder)
    assert (found.n, len(found.questions)) == (40, 40)
    assert found.tokens == sum(row.tokens for row in found.questions)
    asked = read_questions(ROOT / "mlx_medlora" / "assets" / "general_medical.jsonl")[3]
    encoded = encoder.encode(asked.conversation(with_answer=True), [], with_answer=True)
    answer = np.flatnonzero(encoded.supervised)
    before, after = (np.array(one(mx.array(encoded.ids)[None]), np.float64)[0] for one in (base, model))
    logs = [one - np.log(np.exp(one).sum(-1, keepdims=True)) for one in (before, after)]
    kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)[answer - 1].mean()
    losses = [-one[answer - 1, encoded.ids[answer]].mean() for one in logs]
    row = found.questions[3]
    assert row.line == asked.line
    assert row.tokens == len(answer)
    assert [row.kl, row.loss_base, row.loss_tuned] == pytest.approx([kl, *losses], rel=1e-4)
    assert found.kl.interval is not None
    low, high = found.kl.interval
    assert low < (found.kl.value or 0) < high
    assert measure(model, encoder) == found  # the same answers, the same interval


def test_a_base_beside_gives_the_same(tiny_medgemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of adapters that replaced parts of the base, on one that did not."""
    model, processor = load(tiny_medgemma, REFERENCE)
    encoder = Encoder(processor, model.config)
    plain = measure(model, encoder)
    monkeypatch.setattr("mlx_medlora.evaluation.forgetting.can_switch", lambda model: False)
    assert measure(model, encoder, lambda: load_model(tiny_medgemma)) == plain


def test_a_base_that_is_its_own_tuned_model_has_moved_nowhere(tiny_medgemma: Path, tmp_path: Path) -> None:
    model, processor = load(tiny_medgemma)
    found = measure(model, Encoder(processor, model.config), lambda: load_model(tiny_medgemma))
    assert found.kl.value == 0.0
    assert found.loss_change.value == 0.0
    assert found.kl.interval is None


def test_replay_lowers_forgetting(tiny_medgemma: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    """Of exchanges the base was taught, on others of the same kinds: the interval of KL lies wholly lower."""
    path = tmp_path / "general.jsonl"
    held = replayed_and_held(path, 40)
    settings = TrainSettings(epochs=4, lr=2e-3, replay_share=0.5)
    found = {}
    for name, file in (("plain", None), ("replay", str(path))):
        adapter = tmp_path / name
        run_training(tiny_medgemma, phantom_dataset, adapter, settings.model_copy(update={"replay": file}))
        model, processor = load(tiny_medgemma, adapter)
        found[name] = measure(model, Encoder(processor, model.config), questions=held)
    plain, replay = found["plain"].kl, found["replay"].kl
    assert plain.interval is not None
    assert replay.interval is not None
    assert replay.interval[1] < plain.interval[0]
    assert (found["replay"].loss_change.value or 0) < (found["plain"].loss_change.value or 0)
