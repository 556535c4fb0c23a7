"""Finding models: directories, the embedded one, and a hub that stands on the loopback interface."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stub_hub import COMMIT, FILES, REPO, StubHub

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.gemma import fetch, hub


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    import huggingface_hub
    from huggingface_hub import constants

    server = StubHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    huggingface_hub.close_session()  # so that the proxy settings are read again
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    server.server_close()


def test_download_takes_only_what_a_model_needs(stub: StubHub) -> None:
    found = hub.locate(REPO)
    assert found.name == REPO
    assert found.revision == COMMIT
    names = {path.name for path in found.directory.rglob("*")}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "LICENSE"}
    assert (found.directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_offline_uses_the_cache_and_asks_nobody(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="not completely in the hub's cache"):
        hub.resolve(REPO, offline=True)
    assert stub.requests == []
    online = hub.resolve(REPO)
    stub.requests.clear()
    assert hub.resolve(REPO, offline=True) == online
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.resolve(REPO) == online
    with pytest.raises(InputError, match="downloads are off"):
        hub.resolve("owner/other")
    assert stub.requests == []


def test_a_broken_transfer_goes_on_where_it_stopped(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    stub.cut.add("model.safetensors")
    directory = hub.resolve(REPO)
    assert (directory / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    ranges = [asked for _, path, asked in stub.requests if path.endswith("model.safetensors") and asked]
    assert ranges
    assert 0 < int(ranges[-1].removeprefix("bytes=").split("-")[0]) < len(FILES["model.safetensors"])


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> str:
    """The file that is large enough to be continued; a transfer is tried once."""
    monkeypatch.setattr(fetch, "LARGE", 1 << 16)
    monkeypatch.setattr(fetch, "_ATTEMPTS", 1)
    monkeypatch.setattr(fetch, "_CHUNK", 1 << 12)
    return "model.safetensors"


def ranges(stub: StubHub, name: str) -> list[int]:
    """Where transfers of a file began."""
    asked = [field for kind, path, field in stub.requests if kind == "GET" and path.endswith(f"/{name}")]
    return [int((field or "bytes=0-").removeprefix("bytes=").split("-")[0]) for field in asked]


def test_the_next_process_goes_on_where_one_was_cut_off(stub: StubHub, large: str) -> None:
    stub.cut.add(large)
    with pytest.raises(MedloraError, match=f"downloading {REPO} broke off") as caught:
        hub.resolve(REPO)
    assert "what has arrived is kept" in str(caught.value.hint)
    assert ranges(stub, large) == [0]
    directory = hub.resolve(REPO)
    assert (directory / large).read_bytes() == FILES[large]
    first, second = ranges(stub, large)
    assert (first, second) == (0, len(FILES[large]) // 2)
    stub.requests.clear()
    assert hub.resolve(REPO) == directory
    assert stub.fetched() == []


def test_a_part_that_is_damaged_is_thrown_away(stub: StubHub, large: str) -> None:
    stub.cut.add(large)
    with pytest.raises(MedloraError):
        hub.resolve(REPO)
    part = next(Path("cache").rglob("*.medlora.incomplete"))
    part.write_bytes(bytes(part.stat().st_size))
    with pytest.raises(MedloraError, match="arrived damaged; it was thrown away"):
        hub.resolve(REPO)
    assert (hub.resolve(REPO) / large).read_bytes() == FILES[large]


def test_within_a_process_a_broken_transfer_of_a_large_file_goes_on(
    stub: StubHub, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_ATTEMPTS", 2)
    stub.cut.add(large)
    assert (hub.resolve(REPO) / large).read_bytes() == FILES[large]
    assert ranges(stub, large) == [0, len(FILES[large]) // 2]


def test_a_server_that_begins_anew_and_breaks_off_at_once(
    stub: StubHub, large: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What had arrived is dropped, so the next attempt has to ask for all of it."""
    stub.cut.add(large)
    with pytest.raises(MedloraError):
        hub.resolve(REPO)
    monkeypatch.setattr(fetch, "_ATTEMPTS", 2)
    stub.silent.add(large)
    assert (hub.resolve(REPO) / large).read_bytes() == FILES[large]
    assert ranges(stub, large) == [0, len(FILES[large]) // 2, 0]


def test_a_login_that_is_refused(stub: StubHub) -> None:
    stub.unauthorized = True
    with pytest.raises(InputError) as caught:
        hub.resolve(REPO)
    assert REPO in str(caught.value)
    assert "hf auth login" in str(caught.value.hint)


def test_a_failed_download_keeps_what_has_arrived(stub: StubHub) -> None:
    stub.status["model.safetensors"] = 403
    with pytest.raises(InputError, match=rf"the hub refused to give {REPO} to this account \(status 403\)"):
        hub.resolve(REPO)
    with pytest.raises(InputError, match="not completely in the hub's cache"):
        hub.resolve(REPO, offline=True)
    stub.status.clear()
    stub.requests.clear()
    hub.resolve(REPO)
    assert "model.safetensors" in stub.fetched()
    assert "config.json" not in stub.fetched()


def test_gated_models_say_where_to_accept_the_licence(stub: StubHub) -> None:
    stub.gated = True
    with pytest.raises(InputError, match=f"{REPO} is gated") as caught:
        hub.resolve(REPO)
    assert f"{stub.url}/{REPO}" in str(caught.value.hint)
    assert "hf auth login" in str(caught.value.hint)


def test_unknown_models(stub: StubHub) -> None:
    with pytest.raises(InputError, match="owner/other is neither a directory here nor a model on the hub"):
        hub.resolve("owner/other")


def test_a_hub_in_trouble(stub: StubHub) -> None:
    stub.down = True
    with pytest.raises(MedloraError, match=f"the hub answered with status 503 for {REPO}") as caught:
        hub.resolve(REPO)
    assert caught.value.exit_code == 1


def test_a_hub_that_cannot_be_reached(stub: StubHub) -> None:
    stub.shutdown()
    stub.server_close()
    with pytest.raises(MedloraError, match="the hub could not be reached") as caught:
        hub.resolve(REPO)
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    "name", ["", "medgemma", "./models/x", "../x", "/nowhere/x", "~/nowhere", "a/b/c", "models/", "a\\b"]
)
def test_what_looks_like_a_path_is_never_sent(stub: StubHub, name: str) -> None:
    with pytest.raises(InputError, match="no such model directory"):
        hub.resolve(name)
    assert stub.requests == []


def test_paths_are_never_hub_ids(stub: StubHub) -> None:
    with pytest.raises(InputError, match="no such model directory"):
        hub.resolve(Path(REPO))
    with pytest.raises(InputError, match="neither a directory here nor a valid hub id"):
        hub.resolve("owner/a--b")
    assert stub.requests == []


def test_directories_come_first(stub: StubHub, tmp_path: Path) -> None:
    for name in (REPO, "tiny-medgemma"):
        (tmp_path / name).mkdir(parents=True)
        assert hub.resolve(name) == Path(name)
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(InputError, match="is a file; give the model's directory"):
        hub.resolve("weights.safetensors")
    assert stub.requests == []


def test_the_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "_ASSETS", tmp_path / "assets")
    with pytest.raises(MedloraError, match="the embedded model is missing"):
        hub.resolve("tiny-medgemma")
    inside = tmp_path / "assets" / "tiny-medgemma"
    inside.mkdir(parents=True)
    (inside / "config.json").write_text("{}")
    assert hub.resolve("tiny-medgemma") == inside


def test_a_repository_that_is_no_model(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FILES, "config.json")
    with pytest.raises(InputError, match=r"has no config\.json"):
        hub.resolve(REPO)


def test_a_full_disk_while_downloading(stub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(MedloraError, match="no space left on the disk while downloading"):
        hub.resolve(REPO)
