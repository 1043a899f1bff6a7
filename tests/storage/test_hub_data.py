"""Data sets of the Hugging Face hub, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from gemma_batch.errors import InputError
from gemma_batch.storage.hub_data import place_of
from tests.hub_server import Answering

SHA = "a" * 40
FILES = {
    "README.md": b"# About",
    ".gitattributes": b"",
    "data/train.jsonl": b'{"text": "a"}\n{"text": "b"}\n',
    "data/test.jsonl": b'{"text": "c"}\n',
}
# The client reads HF_ENDPOINT when it is imported, so a process of its own asks all questions.
PROGRAM = """
import json, sys
from gemma_batch.errors import InputError
from gemma_batch.planning.survey import survey
from gemma_batch.spec import JobSpec
def ask(path):
    spec = {"input": {"path": path}, "prompt": {"user": "{{ text }}"}}
    spec |= {"model": "google/gemma-3-4b-it", "output": {"path": "out"}}
    try:
        looked = survey(JobSpec.from_dict(spec))
    except InputError as err:
        return str(err)
    found = []
    for shard in looked.shards:
        for span in shard.reader.index(shard.file, max_rows=1, max_bytes=99):
            rows = shard.reader.read(shard.file, span, None)
            found.append([shard.url, shard.etag, [row.values["text"] for row in rows]])
    return found
print(json.dumps({path: ask(path) for path in sys.argv[1:]}))
"""
ROWS = {
    "hf://datasets/org/set": [("test", "c"), ("train", "a"), ("train", "b")],
    "hf://datasets/org/set@main/data/tr*.jsonl": [("train", "a"), ("train", "b")],
    f"hf://datasets/org/set@{SHA}/data/test.jsonl": [("test", "c")],
}
REFUSED = {
    "hf://datasets/org/other": "does not exist on the hub, or is not given out",
    "hf://datasets/org/set@nowhere": "check the revision and the path",
    "hf://datasets/org/set/more": "matches no files of the data set",
    "hf://org/set": "names no data set of the hub: use hf://datasets/owner/name",
}


class Hub(Answering):
    """The data set org/set; nothing else exists."""

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        about = "/api/datasets/org/set"
        if path in (about, f"{about}/revision/main", f"{about}/revision/{SHA}"):
            self._json({"id": "org/set", "sha": SHA})
        elif path.startswith(f"{about}/revision/"):
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"{about}/tree/{SHA}"):
            self._json([self._entry(name) for name in FILES])
        elif path.startswith(f"/datasets/org/set/resolve/{SHA}/"):
            data = FILES[path.partition(f"{SHA}/")[2]]
            start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
            part = data[int(start) : int(end) + 1]
            self._answer(206, {"Content-Range": f"bytes {start}-{end}/{len(data)}"}, part)
        else:
            self._answer(401, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._json([self._entry(name) for name in FILES if name in body.replace("%2F", "/")])

    def _entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(FILES[name]), "oid": f"oid-{name}"}

    def _json(self, data: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(data).encode())


@pytest.fixture(scope="module")
def answers() -> Any:
    """What the survey of each path finds or says."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    env = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-c", PROGRAM, *ROWS, *REFUSED]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", ROWS)
def test_the_rows_of_a_data_set(answers: Any, path: str) -> None:
    """The commit is a part of each file's URL, so that a run reads one state of the data set."""
    assert answers[path] == [
        [f"hf://datasets/org/set@{SHA}/data/{name}.jsonl", f"oid-data/{name}.jsonl", [text]]
        for name, text in ROWS[path]
    ]


@pytest.mark.parametrize("path", REFUSED)
def test_what_the_hub_does_not_have(answers: Any, path: str) -> None:
    """A sentence says which part is wrong."""
    assert REFUSED[path] in answers[path]


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("hf://datasets/a/b", ("a/b", "", "")),
        ("hf://datasets/a/b@v1/x/*.parquet", ("a/b", "v1", "x/*.parquet")),
        ("hf://datasets/a/b/x/", ("a/b", "", "x")),
        ("hf://datasets/a", None),
        ("hf://spaces/a/b", None),
    ],
)
def test_a_url_has_parts(url: str, parts: tuple[str, str, str] | None) -> None:
    """Name, revision and path."""
    if parts is not None:
        assert place_of(url) == parts
        return
    with pytest.raises(InputError, match="names no data set"):
        place_of(url)
