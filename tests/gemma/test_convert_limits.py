"""Conversions that fail or are ended leave nothing; how much memory they take; what their writer refuses."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.gemma import convert as conversion
from mlx_medlora.gemma import packing
from mlx_medlora.gemma.config import read_config
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.model import build
from mlx_medlora.gemma.shards import Planned, ShardWriter, header, split


def test_an_interrupted_conversion_leaves_nothing(
    hub_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(packing, "BLOCK_VALUES", 1000)
    before, threads = sorted(os.listdir(tmp_path)), threading.active_count()
    for bits in (None, 4):
        with pytest.raises(KeyboardInterrupt):
            convert(hub_checkpoint, tmp_path / "out", bits=bits, group_size=32, progress=interrupt)
        assert sorted(os.listdir(tmp_path)) == before
        assert threading.active_count() == threads


def test_a_source_that_shrinks_is_named_and_leaves_nothing(hub_checkpoint: Path, tmp_path: Path) -> None:
    path = hub_checkpoint / "model.safetensors"

    def cut(done: int, total: int) -> None:
        os.truncate(path, 4096)

    with pytest.raises(InputError, match=r"model\.safetensors: cut off inside language_model") as caught:
        convert(hub_checkpoint, tmp_path / "out", progress=cut)
    assert "download" in str(caught.value.hint)
    assert sorted(os.listdir(tmp_path)) == ["hub"]


def test_a_full_disk_leaves_nothing(
    hub_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_copy_companions", fail)
        with pytest.raises(MedloraError, match="no space left on the disk"):
            convert(hub_checkpoint, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MedloraError, match=r"it needs \d+ MB with its small files, \d+ MB are free"):
        convert(hub_checkpoint, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


MEASURE = """
import sys, json, tracemalloc
from pathlib import Path
import mlx_medlora.gemma
import mlx.core as mx
from mlx_medlora.gemma import packing
from mlx_medlora.gemma.convert import convert
packing.BLOCK_VALUES = 1 << 17
convert("tiny-medgemma", Path(sys.argv[2]) / "first", bits=4)  # imports and lasting objects
mx.reset_peak_memory()
tracemalloc.start()
convert(Path(sys.argv[1]), Path(sys.argv[2]) / "out", **json.loads(sys.argv[3]))
print(json.dumps([mx.get_peak_memory(), tracemalloc.get_traced_memory()[1]]))
"""


@pytest.mark.parametrize("options", [{"bits": 4}, {}, {"dtype": "float32"}])
def test_memory_is_that_of_a_few_blocks(tmp_path: Path, options: dict[str, Any]) -> None:
    """Blocks of 0.25 MB (in bf16) of a model whose embedding has 67 MB."""
    embedding = text_checkpoint(tmp_path / "hub", rows=65536)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "hub"), str(tmp_path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    of_mlx, of_python = json.loads(done.stdout)
    assert embedding > 60e6
    assert 0 < of_mlx < 6e6
    assert 0 < of_python < 6e6


def test_converting_loads_no_other_library_of_models(tmp_path: Path) -> None:
    """They would take longer to import than a small model to convert, and 200 MB."""
    program = (
        "import sys; from mlx_medlora.cli.app import run; "
        f"status = run(['convert', 'tiny-medgemma', {str(tmp_path / 'out')!r}, '--bits', '4']); "
        "sys.exit([name for name in ('mlx_lm', 'transformers', 'torch') if name in sys.modules] or status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def text_checkpoint(directory: Path, rows: int) -> int:
    """Write a text-only model 512 wide in bf16; return the bytes of its embedding."""
    directory.mkdir()
    text = {"vocab_size": rows, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2}
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 128}
    raw = {"model_type": "gemma3_text", "query_pre_attn_scalar": 128, "sliding_window": 64}
    (directory / "config.json").write_text(json.dumps(raw | text | shape))
    model = build(read_config(directory))
    arrays = {name: array.astype(mx.bfloat16) for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(directory / "model.safetensors"), arrays)
    return arrays["model.embed_tokens.weight"].nbytes


def test_writer_refuses_what_was_not_planned(tmp_path: Path) -> None:
    plan = [Planned("a", (2, 3), "F32")]
    wrong = [mx.zeros((2, 2)), mx.zeros((2, 3), mx.bfloat16)]
    for number, rows in enumerate(wrong):
        (tmp_path / str(number)).mkdir()
        refused = pytest.raises(ValueError, match=r"planned F32 \(2, 3\)")
        with ShardWriter(tmp_path / str(number), plan, mark="pt") as shards, refused:
            shards.append("a", rows)
    with ShardWriter(tmp_path, plan, mark="pt") as shards:
        shards.append("a", mx.zeros((1, 3)))
        with pytest.raises(ValueError, match="not all rows were written: a"):
            shards.finish()
        with pytest.raises(ValueError, match=r"a: more rows than the planned \(2, 3\)"):
            shards.append("a", mx.zeros((2, 3)))


def test_shards_keep_order_and_limit() -> None:
    plan = [Planned(name, (size,), "F32") for name, size in (("a", 10), ("b", 10), ("c", 100), ("d", 1))]
    assert [[planned.name for planned in group] for group in split(plan, 80)] == [["a", "b"], ["c"], ["d"]]
    assert len(header(plan, "pt")) % 8 == 0
