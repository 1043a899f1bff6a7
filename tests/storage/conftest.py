"""Places to keep files in: the same tests run on disk and on S3."""

from __future__ import annotations

import http.client
import http.server
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.listing import stat
from gemma_batch.storage.patience import QUICK_SECONDS, set_patience
from tests.faults.proxy import ANSWERS, aws_answer

if TYPE_CHECKING:
    from tests.conftest import S3Server


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty location, local and on S3."""
    if request.param == "local":
        return str(tmp_path / "place")
    s3 = request.getfixturevalue("s3")
    return f"{s3.bucket('places')}/{uuid.uuid4().hex}"


Put = Callable[[str, bytes], InputFile]


def putter(place: str) -> Put:
    """A function that puts a file into the place and says what it is as an input."""

    def put(name: str, data: bytes) -> InputFile:
        open_store(place).put(name, data)
        return stat(f"{place}/{name}")

    return put


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Put a local file."""
    return putter(str(tmp_path))


@pytest.fixture
def put_anywhere(place: str) -> Put:
    """Put a file, local and on S3: for what depends on how bytes come in."""
    return putter(place)


class Proxy(http.server.BaseHTTPRequestHandler):
    """Forwards to the S3 server; what is in `faults` happens to the next PUTs, in order."""

    upstream = ""
    faults: list[str]
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.faults.pop(0) if self.command == "PUT" and self.faults else ""
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in ANSWERS:
            status, phrase, headers, answer_body = aws_answer(fault)
            self.send_response(status, phrase)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer_body)))
            self.end_headers()
            self.wfile.write(answer_body)
            return
        connection = http.client.HTTPConnection(self.upstream)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        data = answer.read()
        if fault == "lose the answer":
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in {"transfer-encoding", "connection"}:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def faults(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list of faults for the next PUTs, in order.

    A kind of refusal by AWS (see `ANSWERS` in `tests/faults/proxy.py`), the status of a refusal
    without a body (other stores), 'lose the answer', or '' for none.
    """
    todo: list[str] = []
    upstream = urlsplit(s3.endpoint).netloc
    handler = type("Handler", (Proxy,), {"upstream": upstream, "faults": todo})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    set_patience(60)  # a busy machine may take seconds for one call
    yield todo
    set_patience(QUICK_SECONDS)
    server.shutdown()
    server.server_close()
