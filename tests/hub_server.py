"""A model hub on this machine: serves a folder by the hub's protocol, and counts the questions."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

COMMIT = "c" * 40
MODEL = "org/model"


class HubServer:
    """`asked` are the requests so far. The next `busy` requests get `status` and `wait`."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.asked, self.busy = folder, list[str](), 0
        self.status, self.wait = 429, "0"  # `wait` is the header Retry-After
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer((address, 0), handler)
        self.url = f"http://{address}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def refuses(self, request: str) -> bool:
        """Note a request; True when it is one too many."""
        with self._lock:
            self.asked.append(request)
            self.busy -= 1
            return self.busy >= 0

    def gets(self, name: str) -> int:
        """How often a file was downloaded."""
        return sum(one.startswith("GET ") and one.endswith(f"/{name}") for one in self.asked)

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers in one piece, on connections that stay open, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Handler(Answering):
    hub: HubServer

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path == "/api/agent-harnesses":  # the client asks this for its own purposes
            self._answer(404, {})
        elif self.hub.refuses(f"{self.command} {path}"):
            self._answer(self.hub.status, {"Retry-After": self.hub.wait})
        elif path.startswith(f"/api/models/{MODEL}"):
            files = [p for p in self.hub.folder.iterdir() if p.is_file()]
            siblings = [{"rfilename": p.name, "size": p.stat().st_size} for p in files]
            page = {"id": MODEL, "sha": COMMIT, "siblings": siblings}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(page).encode())
        elif path.startswith(f"/{MODEL}/resolve/{COMMIT}/"):
            data = (self.hub.folder / path.rsplit("/", 1)[-1]).read_bytes()
            etag = hashlib.sha256(data).hexdigest()
            self._answer(200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, data)
        else:
            self._answer(404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET


@contextlib.contextmanager
def hub_server(folder: Path | str, address: str = "127.0.0.1") -> Iterator[HubServer]:
    """A hub with one model, `MODEL`, whose files are those of the folder."""
    hub = HubServer(Path(folder), address)
    try:
        yield hub
    finally:
        hub.close()
