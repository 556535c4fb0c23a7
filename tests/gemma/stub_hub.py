"""A hub on loopback, which can refuse, break off and begin anew."""

from __future__ import annotations

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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
