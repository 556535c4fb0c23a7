"""`plan` as a command."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.cli.app import run
from mlx_medlora.cli.plan_text import duration, size
from mlx_medlora.gemma import load


def said(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert run(["plan", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_embedded_model_is_planned_without_its_weights(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "load_weights", lambda *_: pytest.fail("weights were loaded"))
    words = ["--model", "tiny-medgemma", "--data", str(phantom_dataset), "--tflops", "0.1"]
    plan = said(capsys, *words, "--batch-size", "2", "--rank", "4", "--epochs", "5")
    assert (plan["rows"], plan["validation_rows"], plan["batch_size"], plan["epochs"]) == (24, 8, 2, 5)
    assert plan["exact_lengths"]
    assert plan["updates"] == 60
    assert plan["seconds"]["tflops"] == pytest.approx(0.1)
    assert plan["memory"]["peak"] > plan["memory"]["text"] > 1e6
    assert "commands" not in plan
    larger = said(capsys, *words, "--batch-size", "4", "--rank", "8")
    assert larger["trainable_parameters"] == 2 * plan["trainable_parameters"]
    assert larger["memory"]["activations"] > 1.5 * plan["memory"]["activations"]


def test_the_rate_is_measured_here_where_none_is_given(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--model", "tiny-medgemma", "--data", str(phantom_dataset)]) == 0
    shown = capsys.readouterr().out
    assert "TFLOP/s (measured here)" in shown
    assert "in the tower" not in shown
    assert "peak of a step" in shown


def test_the_tower_s_own_rate_is_named(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mlx_medlora.training.rates.measured_rate",
        lambda config: 1e11 if config.quantization is None else 2e10,
    )
    words = ("--model", "tiny-medgemma", "--data", str(phantom_dataset), "--bits", "4")
    assert run(["plan", *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Time at 0.02 TFLOP/s (packed weights) and 0.1 in the tower (measured here), " in shown
    plan = said(capsys, *words[:4], "--bits", "4")
    assert (plan["seconds"]["tflops"], plan["seconds"]["tower_tflops"]) == pytest.approx((0.02, 0.1))


def test_a_hub_model_is_planned_before_its_download(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    words = ["--data", str(phantom_dataset), "--tflops", "10", "--memory", "16", "--lr", "0.001"]
    plan = said(capsys, "--model", "google/medgemma-4b-it", *words)
    assert plan["fits"]
    assert plan["bits"] in (4, 8)
    assert not plan["exact_lengths"]
    convert, train = plan["commands"]
    place = f"models/medgemma-4b-it-{plan['bits']}bit"
    assert convert == f"mlx-medlora convert google/medgemma-4b-it {place} --bits {plan['bits']}"
    assert f"--model {place} " in train
    assert "--lr 0.001" in train
    assert plan == said(capsys, "--model", "google/medgemma-4b-it", *words)
    named = said(capsys, "--model", "medgemma-4b", *words)
    assert named | {"model": ""} == plan | {"model": ""}


def test_a_model_on_disk_that_fits_as_it_is_needs_no_conversion(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(phantom_dataset), "--tflops", "1", "--memory", "16"]
    plan = said(capsys, "--model", "tiny-medgemma", *words)
    assert [command.split()[1] for command in plan["commands"]] == ["train"]
    assert plan["dtype"] == "float32"


def test_it_says_that_nothing_fits(phantom_dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(phantom_dataset), "--tflops", "1", "--memory", "16"]
    assert run(["plan", "--model", "medgemma-27b", *words]) == 1
    shown = capsys.readouterr()
    assert "peak of a step" in shown.out
    assert "Error: nothing fits a machine of 16 GB: 9.7 of its 16 GB" in shown.err
    assert "Hint: Shorten the longest rows" in shown.err
    assert run(["plan", "--model", "medgemma-27b", *words, "--json"]) == 1
    plan = json.loads(capsys.readouterr().out)
    assert (plan["fits"], plan["commands"]) == (False, [])


def test_the_printed_command_trains_what_was_planned(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("rank: 64\nlr: 1.0e-5\n")
    words = ["--model", "medgemma-4b", "--data", str(phantom_dataset), "--tflops", "1", "--memory", "512"]
    plan = said(capsys, *words, "--config", str(recipe), "--preset", "google-notebook", "--epochs", "2")
    options = shlex.split(plan["commands"][-1])
    assert {"--config", "--preset", "--epochs"} <= set(options)
    assert options[options.index("--config") + 1] == str(recipe)
    assert options[options.index("--preset") + 1] == "google-notebook"
    without = said(capsys, *words)
    assert not {"--config", "--preset"} & set(shlex.split(without["commands"][-1]))


@pytest.mark.parametrize("wanted", ["on", "off"])
@pytest.mark.parametrize("memory", ["16", "512"])
def test_checkpointing_that_was_asked_for_is_planned_and_repeated(
    wanted: str, memory: str, phantom_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "medgemma-4b", "--data", str(phantom_dataset), "--tflops", "1", "--memory", memory]
    plan = said(capsys, *words, "--grad-checkpoint", wanted)
    assert plan["checkpointing"] == (wanted == "on")
    assert f"--grad-checkpoint {wanted}" in plan["commands"][-1]


def test_without_checkpointing_less_fits_and_it_says_so(
    phantom_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", "medgemma-27b", "--data", str(phantom_dataset), "--tflops", "1", "--memory", "30"]
    assert said(capsys, *words)["checkpointing"]
    assert run(["plan", *words, "--grad-checkpoint", "off"]) == 1
    assert "Hint: Leave out --grad-checkpoint off, shorten" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "medgemma-9b"], "medgemma-4b, medgemma-27b"),
        (["--model", "medgemma-4b", "--target", "w_proj"], "names no linear layer"),
        (["--model", "medgemma-4b", "--batch-size", "0"], "batch_size"),
    ],
)
def test_wrong_input_is_said_in_words(
    words: list[str], message: str, phantom_dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", *words, "--data", str(phantom_dataset), "--tflops", "1"]) == 2
    assert message in capsys.readouterr().err


def test_sizes_and_times_read_well() -> None:
    assert [size(n) for n in (500, 2.5e6, 8.6e9, 4.6e11, 1.2e12)] == [
        "0.5 kB",
        "2.5 MB",
        "8.6 GB",
        "460.0 GB",
        "1.2 TB",
    ]
    assert [duration(s) for s in (0.25, 90, 600, 7200, 400_000)] == [
        "0.25 s",
        "90 s",
        "10.0 min",
        "2.0 h",
        "4.6 days",
    ]
