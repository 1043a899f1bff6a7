"""The hub is asked once, and waited for: against a server that speaks its protocol and counts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import COMMIT, MODEL, HubServer, hub_server

# The hub's client reads its settings when it is imported, so each test has processes of its own.
PROGRAM = """
import pickle, sys
from pathlib import Path
from gemma_batch.errors import ModelError
from gemma_batch.storage.models import fetch_weights, model_files
planned, what = Path(sys.argv[1]), sys.argv[2:]
try:
    if "plan" in what:
        planned.write_bytes(pickle.dumps(model_files(what[-1])))
    found = pickle.loads(planned.read_bytes())
    print(found.revision, sorted(found.names), found.weight_bytes)
    if "load" in what:
        print(fetch_weights(what[-1], found, weights="dummy" not in what))
except ModelError as err:
    print("ModelError:", err)
"""


@pytest.fixture
def hub(model: str) -> Iterator[HubServer]:
    with hub_server(model) as server:
        yield server


class Node:
    """A machine with a cache of its own."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.planned, self.home, self.url = folder / "planned", folder / "home", hub.url

    def start(self, *what: str) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(self.home), "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", PROGRAM, str(self.planned), *what, MODEL]
        return subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def run(self, *what: str) -> str:
        process = self.start(*what)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out


@pytest.fixture
def node(hub: HubServer, tmp_path: Path) -> Node:
    return Node(hub, tmp_path)


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_refuses_for_a_while_is_waited_for(
    hub: HubServer, node: Node, status: int
) -> None:
    """Each refusal says how long to wait; then the plan goes on."""
    hub.busy, hub.wait, hub.status = 2, "1", status
    started = time.monotonic()
    said = node.run("plan")
    assert said.startswith(COMMIT)
    assert time.monotonic() - started > 2
    assert hub.gets("config.json") == hub.gets("tokenizer.json") == 1
    assert hub.gets("model.safetensors") == 0


def test_a_hub_that_stays_busy_is_named(hub: HubServer, node: Node) -> None:
    """Longer than anybody waits for a plan: the way out is said at once."""
    hub.busy, hub.wait = 1000, "900"
    started = time.monotonic()
    said = node.run("plan")
    assert "ModelError: the model hub" in said
    assert "HTTP 429" in said
    assert "HF_TOKEN" in said
    assert time.monotonic() - started < 60


def test_weights_come_to_a_node_once(hub: HubServer, node: Node, model: str) -> None:
    """Several engines start at once: one fetches, in spite of refusals, and nobody asks again."""
    node.run("plan")
    assert not [one for one in hub.asked[1:] if "/api/" in one], "the model was asked for twice"
    random = node.run("load", "dummy").splitlines()[1]
    assert Path(random, "generation_config.json").is_file()
    assert hub.gets("model.safetensors") == 0, "an engine with random weights fetched weights"
    questions = len(hub.asked)
    hub.busy = 2
    engines = [node.start("load") for _ in range(3)]
    said = [engine.communicate(timeout=120) for engine in engines]
    assert not any(engine.returncode for engine in engines), said
    (folder,) = {out.splitlines()[1] for out, _ in said}
    whole = Path(model, "model.safetensors").read_bytes()
    assert Path(folder, "model.safetensors").read_bytes() == whole
    assert hub.gets("model.safetensors") == 1
    assert not [one for one in hub.asked[questions:] if "/api/" in one]
    node.url = "http://127.0.0.1:9"
    assert node.run("load").splitlines()[1] == folder, "a node that has the files needs no hub"
