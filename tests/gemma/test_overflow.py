"""Weights that are numbers in fp32 and too large for what they are converted to."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.gemma import packing
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.load import load_base

TEXT = "language_model.model.layers.3.mlp.up_proj.weight"
TOWER = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight"
LARGEST = float(mx.finfo(mx.bfloat16).max)
BEYOND = 3.4e38  # a number in fp32, which reaches 3.403e38


def with_values(directory: Path, name: str, values: Sequence[float]) -> Path:
    """Put values at the beginning of the last row of a tensor."""
    path = directory / "model.safetensors"
    tensors = {key: np.array(array) for key, array in mx.load(str(path)).items()}
    tensors[name][-1, : len(values)] = values
    mx.save_safetensors(str(path), {key: mx.array(value) for key, value in tensors.items()}, {"format": "pt"})
    return path


@pytest.mark.parametrize("name", [TEXT, TOWER])
@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("value", [BEYOND, -BEYOND])
def test_a_value_beyond_bfloat16_is_said_to_be_too_large(
    hub_checkpoint: Path, tmp_path: Path, name: str, bits: int | None, value: float
) -> None:
    path = with_values(hub_checkpoint, name, [value])
    message = f"{path}: a value of {name} is too large for bfloat16"
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32)
    assert "--dtype float32" in str(caught.value.hint)
    assert sorted(os.listdir(tmp_path)) == ["hub"]
    convert(hub_checkpoint, tmp_path / "out", dtype="float32")
    load_base(tmp_path / "out")
    with pytest.raises(InputError, match=re.escape("is too large for bfloat16")) as caught:
        load_base(tmp_path / "out", mx.bfloat16)
    assert "float32" in str(caught.value.hint)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_was_no_number_before_is_still_called_so(
    hub_checkpoint: Path, tmp_path: Path, value: float
) -> None:
    with_values(hub_checkpoint, TEXT, [BEYOND, value])
    with pytest.raises(InputError, match=f"the weights hold NaN or infinity: {re.escape(TEXT)}"):
        convert(hub_checkpoint, tmp_path / "out")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", [TEXT, "language_model.model.embed_tokens.weight"])
def test_a_group_too_wide_to_be_packed_is_refused(
    hub_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: str,
    bits: int,
    name: str,
) -> None:
    """Its range has no scale: the result would be complete, and refused whenever it is loaded."""
    monkeypatch.setattr(packing, "BLOCK_VALUES", 1000)
    with_values(hub_checkpoint, name, [2e38, -2e38])
    message = f"{name} cannot be packed into {bits} bits: .* their scale is too large for {dtype}"
    with pytest.raises(InputError, match=message) as caught:
        convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32, dtype=dtype)
    assert "Leave out --bits" in str(caught.value.hint)
    assert sorted(os.listdir(tmp_path)) == ["hub"]
    convert(hub_checkpoint, tmp_path / "out", dtype=dtype)
    load_base(tmp_path / "out")


@pytest.mark.parametrize("values", [[LARGEST], [-LARGEST], [1.6e38, -1.6e38], [LARGEST] * 32])
def test_the_largest_that_fit_are_packed_and_load(
    hub_checkpoint: Path, tmp_path: Path, values: list[float]
) -> None:
    with_values(hub_checkpoint, TEXT, values)
    convert(hub_checkpoint, tmp_path / "out", bits=4, group_size=32)
    load_base(tmp_path / "out")


def test_the_command_says_it_in_a_sentence(hub_checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    with_values(hub_checkpoint, TEXT, [BEYOND])
    assert run(["convert", str(hub_checkpoint), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"a value of {TEXT} is too large for bfloat16" in said
    assert "--dtype float32" in said
    assert "Traceback" not in said
