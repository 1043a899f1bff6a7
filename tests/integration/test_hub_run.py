"""A model on the hub: the driver asks, and neither readers nor units ask again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hub_server import MODEL, hub_server

from .helpers import assert_each_once, cli, write_spec


@pytest.mark.long
def test_only_the_driver_asks_the_hub(model: str, tmp_path: Path) -> None:
    """Two routes side by side, on a cluster of its own, whose readers have the hub's address too.

    The hub refuses the first calls, and the run waits.
    """
    rows = [{"id": f"r{i}", "doc": "the quick brown fox " * (1 + i % 2)} for i in range(120)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = str(tmp_path / "out")
    spec = write_spec(
        tmp_path / "job.yaml",
        input={"path": str(tmp_path / "in.jsonl"), "id": "id"},
        prompt={"user": "{{ doc }}"},
        routes=[
            {"name": "long", "model": MODEL, "when": "length(doc) > 25"},
            {"name": "rest", "model": MODEL},
        ],
        sampling={"max_tokens": 4},
        output={"path": output},
        resources={"engine": "echo", "max_model_len": 256, "replicas": 1},
        policy={"unit_rows": 10},
    )
    with hub_server(model) as hub:
        hub.busy, hub.wait = 3, "1"
        done = cli("run", str(spec), HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hf"))
        assert done.returncode == 0, done.stderr
        assert_each_once(output, [str(row["id"]) for row in rows])
        questions = [one for one in hub.asked if "/api/models/" in one]
        # One for each route, and one for each refusal.
        assert len(questions) == 2 + 3, questions
        assert hub.gets("tokenizer.json") == 1
