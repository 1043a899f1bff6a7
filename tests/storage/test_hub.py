"""The hub's answers in words, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import Answering

SHA = "a" * 40
FILES = {"config.json": b"{}", "tokenizer.json": b"{}", "tokenizer_config.json": b'{"x": 1}'}
SIBLINGS = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
WEIGHTS = {"rfilename": "model.safetensors", "size": 12345}
PROGRAM = """
import sys
from gemma_batch.errors import ModelError
from gemma_batch.storage.models import model_files
try:
    print(model_files(*sys.argv[1:]))
except ModelError as err:
    print("ModelError:", err)
"""


class Hub(Answering):
    """org/open answers, org/gated shows its page but no file, anything else does not exist."""

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._api("/".join(parts[2:4]), parts[4:])
        else:
            self._file("/".join(parts[:2]), parts[-1])

    do_HEAD = do_GET

    def _api(self, model: str, rest: list[str]) -> None:
        if model not in {"org/open", "org/gated"}:
            self._answer(401, {"X-Error-Code": "RepoNotFound"})
        elif "missing" in rest:
            self._answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif "tree" in rest:
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": "b" * 40}
                for name, data in FILES.items()
            ]
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
        else:
            page = {"id": model, "sha": SHA, "siblings": [*SIBLINGS, WEIGHTS], "gated": "manual"}
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(page).encode())

    def _file(self, model: str, name: str) -> None:
        if model == "org/gated":
            self._answer(403, {"X-Error-Code": "GatedRepo"})
        else:
            headers = {"ETag": f'"{name}"', "X-Repo-Commit": SHA}
            self._answer(200, headers, FILES[name])


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(hub: str, home: Path, *args: str) -> str:
    """What `model_files` makes of it, in a process of its own: the hub's address is read once."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", PROGRAM, *args]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_small_files_come_from_the_hub_and_stay(hub: str, tmp_path: Path) -> None:
    """With the commit and the size of the weights; the copy serves when the hub is gone."""
    found = ask(hub, tmp_path, "org/open")
    assert f"revision='{SHA}'" in found
    assert "weight_bytes=12345" in found
    again = ask("http://127.0.0.1:9", tmp_path, "org/open", SHA)
    assert f"revision='{SHA}'" in again
    assert "ModelError" not in again


@pytest.mark.parametrize(
    ("args", "sentences"),
    [
        (["org/gated"], ["licence of 'org/gated'", "/org/gated", "HF_TOKEN"]),
        (["org/none"], ["'org/none' does not exist on the hub", "gemma-batch models"]),
        (["org/open", "missing"], ["no revision 'missing'"]),
    ],
)
def test_refusals_say_what_to_do(
    hub: str, tmp_path: Path, args: list[str], sentences: list[str]
) -> None:
    """A licence not accepted, an unknown model, an unknown revision."""
    said = ask(hub, tmp_path, *args)
    assert said.startswith("ModelError:")
    for sentence in sentences:
        assert sentence in said


def test_a_password_in_the_hubs_address_is_not_said(hub: str, tmp_path: Path) -> None:
    """The page to visit is named without it."""
    said = ask(hub.replace("http://", "http://user:hub-p4ssw0rd@"), tmp_path, "org/gated")
    assert "accept it at http://127.0.0.1" in said
    assert "p4ssw0rd" not in said
