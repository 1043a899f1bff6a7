"""Retry: failed rows run again, and one outcome per row holds across generations."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

from gemma_batch.storage.fs import open_store

from .helpers import assert_each_once, cli, start_cli, write_spec

ROWS = 200


def test_failed_rows_are_run_again_into_a_new_generation(
    tiny: str, cluster: str, tmp_path: Path
) -> None:
    """Deadlines pass the second time, nulls stay; killed half-way, it goes on."""
    rows = [{"id": f"r{i}", "doc": f"text {i}" if i % 10 else None} for i in range(ROWS)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = str(tmp_path / "out")
    data: dict[str, Any] = {
        "input": {"path": str(tmp_path / "in.jsonl"), "id": "id"},
        "prompt": {"user": "{{ doc }}"},
        "model": tiny,
        "sampling": {"max_tokens": 4},
        "output": {"path": output, "keep": ["doc"]},
        "resources": {
            "engine": "echo",
            "max_model_len": 512,
            "replicas": 1,
            "engine_args": {"rows_per_second": 10},
        },
        "policy": {"unit_rows": 20, "row_deadline": 1.0},
    }
    ids = [row["id"] for row in rows]
    nulls = {row["id"] for row in rows if row["doc"] is None}
    first = cli(
        "run", str(write_spec(tmp_path / "job.yaml", **data)), "--json", RAY_ADDRESS=cluster
    )
    assert first.returncode == 3, first.stderr
    results, errors = assert_each_once(output, ids)
    codes = json.loads(first.stdout)["failures"]
    assert codes["null_value"] == len(nulls)
    assert codes["deadline"] > 0, "the first run was meant to be too slow"
    assert len(results) == ROWS - len(nulls) - codes["deadline"]

    # The retry is killed once half-way. What it committed by then counts.
    easier = ["--set", "policy.row_deadline=60"]
    slowly = ["--set", "resources.engine_args.rows_per_second=40"]
    driver = start_cli("retry", output, *easier, *slowly, RAY_ADDRESS=cluster)
    store = open_store(output)
    deadline = time.monotonic() + 300
    while not any("-retry1" in key for key in store.list("results")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    status = json.loads(cli("status", output, "--json").stdout)
    assert status["state"] == "held"
    assert status["open_retry"]["generation"] == 1

    fast = ["--set", "resources.engine_args.rows_per_second=1000"]
    done = cli("retry", output, *easier, *fast, "--json", RAY_ADDRESS=cluster)
    assert done.returncode == 3, done.stderr  # the nulls remain
    report = json.loads(done.stdout)
    results, errors = assert_each_once(output, ids)
    assert {row["id"] for row in errors} == nulls
    assert report["failures"] == {"null_value": len(nulls)}
    assert (report["answered"], report["generations"]) == (ROWS - len(nulls), 1)
    assert {row["id"]: row["doc"] for row in results} == {
        row["id"]: row["doc"] for row in rows if row["id"] not in nulls
    }

    # Nothing that is worth a retry is left: no cluster is looked for.
    again = cli("retry", output, "--json", RAY_ADDRESS="127.0.0.1:1")
    assert again.returncode == 3, again.stderr
    assert json.loads(again.stdout)["answered"] == ROWS - len(nulls)
    allowed = ("--set", f"policy.max_failed={len(nulls)}")
    assert cli("retry", output, *allowed, RAY_ADDRESS="127.0.0.1:1").returncode == 0

    # A process that died between a part and its errors file leaves nothing out in the end.
    files = sorted((tmp_path / "out" / "errors").glob("*.parquet"))
    before = files[3].read_bytes()
    files[3].unlink()
    assert cli("run", str(tmp_path / "job.yaml"), RAY_ADDRESS="127.0.0.1:1").returncode == 3
    assert files[3].read_bytes() == before
    _, errors = assert_each_once(output, ids)
    assert {row["id"] for row in errors} == nulls
