"""Finding models: directories, the embedded one, and a hub that stands on the loopback interface."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlx_medlora.errors import InputError, MedloraError
from mlx_medlora.gemma import fetch, hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "owner/medgemma-tiny"
FILES = {
    "config.json": b'{"model_type": "gemma3"}',
    "model.safetensors": bytes(range(256)) * 4096,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "LICENSE": b"terms",
    "pytorch_model.bin": b"a pickle",
    "original/consolidated.safetensors": b"a second copy",
    "README.md": b"card",
}


class StubHub(ThreadingHTTPServer):
    """Serves `files` of REPO; `gated`, `down`, `status` and `cut` make it fail in known ways."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.gated = False
        self.unauthorized = False
        self.down = False
        self.status: dict[str, int] = {}  # of single files
        self.cut: set[str] = set()  # files whose first transfer breaks off half-way
        self.silent: set[str] = set()  # files of which the next transfer begins anew and brings no byte
        self.requests: list[tuple[str, str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fetched(self) -> list[str]:
        got = [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        return [path.rsplit("/", 1)[-1] for path in got]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: StubHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        if f"/{REPO}" not in path:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif self.server.down:
            self.answer(503, b"{}")
        elif self.server.unauthorized:
            self.answer(401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif "/resolve/" in path:
            self.file(path.split(f"/resolve/{COMMIT}/")[-1])
        elif "/tree/" in path:
            fields = [
                {"path": name, "size": len(data), "oid": f"{name}-blob"} for name, data in FILES.items()
            ]
            listing = [{"type": "file"} | entry for entry in fields]
            self.answer(200, json.dumps(listing).encode())
        else:
            self.answer(200, json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}).encode())

    def file(self, name: str) -> None:
        if self.server.gated:
            return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if name in self.server.status:
            return self.answer(self.server.status[name], b"{}")
        data = FILES[name]
        etag = hashlib.sha256(data).hexdigest() if name == "model.safetensors" else f"{name}-blob"
        fields = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            fields["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.command == "GET" and name in self.server.cut:
            self.server.cut.remove(name)
            return self.answer(200, data, fields, sent=len(data) // 2)
        if self.command == "GET" and name in self.server.silent:
            self.server.silent.remove(name)
            return self.answer(200, data, fields, sent=0)
        return self.answer(206 if start else 200, data[start:], fields)

    def answer(
        self, status: int, body: bytes, fields: dict[str, str] | None = None, sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        self.close_connection = sent is not None


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
