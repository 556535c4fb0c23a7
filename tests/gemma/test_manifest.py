"""A model that was copied badly is told by its manifest: which file, and what it should be."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mlx_medlora.cli.app import run
from mlx_medlora.errors import InputError
from mlx_medlora.gemma.convert import convert
from mlx_medlora.gemma.hub import locate
from mlx_medlora.gemma.manifest import MANIFEST, check_sizes, verify
from mlx_medlora.lora.load import load, load_model


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model in several shards, with a licence."""
    source = tmp_path_factory.mktemp("source") / "tiny"
    shutil.copytree(Path(__file__).parents[2] / "mlx_medlora" / "assets" / "tiny-medgemma", source)
    (source / "LICENSE").write_text("terms")
    convert(source, source.parent / "model", shard_bytes=1_000_000)
    return source.parent / "model"


@pytest.fixture
def model(converted: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(converted, tmp_path / "copy"))


def cut(path: Path, size: int) -> int:
    """Cut a file to `size` bytes; how many it had."""
    before = path.stat().st_size
    with path.open("r+b") as stream:
        stream.truncate(size)
    return before


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["model-00002-of-00004.safetensors", "tokenizer.json", "config.json"])
def test_a_file_that_is_cut_short_is_named_with_its_size(model: Path, name: str) -> None:
    size = cut(model / name, 300)
    with pytest.raises(
        InputError, match=rf"{name}: is cut short: it has 300 bytes and should have {size:,}"
    ) as caught:
        load(model)
    assert "Copy or convert it again" in str(caught.value.hint)


def test_a_file_that_is_gone_or_has_grown_is_named(model: Path) -> None:
    (model / "chat_template.jinja").write_text((model / "chat_template.jinja").read_text() + "x")
    with pytest.raises(InputError, match=r"chat_template.jinja: has grown: it has [\d,]+ bytes and should"):
        load_model(model)
    (model / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match=r"chat_template.jinja: is not there; it should have [\d,]+ bytes"):
        load_model(model)


def test_what_a_model_answers_without_may_be_gone_or_added(model: Path) -> None:
    (model / "LICENSE").unlink()
    (model / "notes.txt").write_text("mine")
    load_model(model)
    assert verify(model) == len(list(model.iterdir())) - 2  # neither the manifest nor the notes


def test_a_changed_byte_is_found_by_its_hash_alone(model: Path) -> None:
    flip(model / "model-00003-of-00004.safetensors")
    check_sizes(model)
    steps: list[tuple[int, int]] = []
    with pytest.raises(InputError, match=r"model-00003-of-00004.safetensors: is not what was written"):
        verify(model, lambda done, total: steps.append((done, total)))
    assert 0 < steps[-1][0] < steps[-1][1]


@pytest.mark.parametrize(
    "manifest", ["{", "[]", '{"files": []}', '{"files": {"../x": {"bytes": 1, "sha256": "a"}}}']
)
def test_a_damaged_manifest_is_named(model: Path, manifest: str) -> None:
    (model / MANIFEST).write_text(manifest)
    with pytest.raises(InputError, match=MANIFEST):
        check_sizes(model)


def test_a_directory_without_a_manifest_is_taken_and_cannot_be_verified(tiny_medgemma: Path) -> None:
    assert locate(tiny_medgemma).directory == tiny_medgemma
    with pytest.raises(InputError, match="nothing to verify against") as caught:
        verify(tiny_medgemma)
    assert "Leave --verify out" in str(caught.value.hint)


def test_the_hub_s_cache_is_verified_by_its_names(tmp_path: Path) -> None:
    """Large files are named by SHA-256 there, small ones by git's SHA-1."""
    large, small = b"weights" * 1000, b'{"a": 1}'
    names = {
        "model.safetensors": (large, hashlib.sha256(large).hexdigest()),
        "config.json": (small, hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest()),
    }
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "c0ffee"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for name, (content, digest) in names.items():
        (blobs / digest).write_bytes(content)
        (snapshot / name).symlink_to(blobs / digest)
    assert verify(snapshot) == 2
    for name in names:
        flip(snapshot / name)
        with pytest.raises(InputError, match=f"{name}: is not what was written") as caught:
            verify(snapshot)
        assert f"Remove {blobs}" in str(caught.value.hint)
        flip(snapshot / name)


COMMANDS = {
    "eval": ("--data", "lora_training", "--output", "OUT"),
    "train": ("--data", "lora_training", "--output", "OUT"),
    "generate": ("--prompt", "?"),
    "fuse": ("--adapter", "adapters/reference", "--output", "OUT"),
    "doctor": (),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_verify_before_they_load(
    command: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    flip(model / "model-00001-of-00004.safetensors")
    rest = [str(tmp_path / "out") if part == "OUT" else part for part in COMMANDS[command]]
    status = run([command, "--model", str(model), *rest, "--verify"])
    said = capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert "model-00001-of-00004.safetensors: is not what was written" in said.err
    assert "Traceback" not in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_doctor_checks_a_model(model: Path, capsys: pytest.CaptureFixture[str], converted: Path) -> None:
    assert run(["doctor", "--model", str(converted), "--verify", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["model"]
    assert said == {
        "path": str(converted),
        "sizes": "compared with the manifest",
        "hashes": "compared",
    }
    cut(model / "model-00004-of-00004.safetensors", 10)
    assert run(["doctor", "--model", str(model)]) == 2
    assert "is cut short: it has 10 bytes" in capsys.readouterr().err
    assert run(["doctor", "--verify"]) == 2
    assert "without --model" in capsys.readouterr().err
