"""A run over input that is sorted as a whole first: the same data set, in another order."""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gemma_batch.storage.fs import open_store

from .helpers import assert_each_once, cli, start_cli, write_spec

ROWS, SHARDS, GROUPS = 3600, 4, 120
BAD = 7  # the line of each shard that is no JSON
IDS = [f"{shard:05d}-{row:010d}" for shard in range(SHARDS) for row in range(ROWS // SHARDS)]


def write_input(folder: Path) -> str:
    """Rows of many groups at random, and some that fail: a value that is missing, a bad line."""
    chance = random.Random(11)
    folder.mkdir()
    for shard in range(SHARDS):
        rows: list[dict[str, Any]] = [
            {
                "group": f"group {chance.randrange(GROUPS)} " + "of many words " * 10,
                "text": f"{shard}.{i}",
                "when": "long" if i % 3 else "short",
            }
            for i in range(ROWS // SHARDS)
        ]
        for row in rows[::100]:
            row["group"] = None
        lines = [json.dumps(row) for row in rows]
        lines[BAD] = "no json"
        (folder / f"{shard}.jsonl").write_text("\n".join(lines) + "\n")
    return f"{folder}/*.jsonl"


def job(folder: Path, model: str, output: str) -> Path:
    """A third of the rows on a route in the input's order, the others on one that is sorted."""
    return write_spec(
        folder / "job.yaml",
        name="sorted",
        input={"path": write_input(folder / "in")},
        prompt={"user": "{{ group }} {{ text }}"},
        routes=[
            {"name": "short", "when": "\"when\" = 'short'", "model": model},
            {"name": "long", "model": model, "resources": {"sort": "always"}},
        ],
        sampling={"max_tokens": 8},
        output={"path": output, "keep": ["text", "group"]},
        resources={
            "engine": "echo",
            "max_model_len": 512,
            "replicas": 1,
            "engine_args": {"rows_per_second": 800},
        },
        policy={"unit_rows": 128, "max_failed": 100},
    )


def test_sorted_killed_and_retried(s3: Any, tiny: str, cluster: str, tmp_path: Path) -> None:
    """SIGKILL while it sorts, and again while it runs: the same data set, sorted once more only.

    Ids, kept values, failures and where they came from go by the input, also in a retry
    (promises 1 and 2).
    """
    output = f"{s3.bucket('sorted')}/out"
    spec, log = job(tmp_path, tiny, output), tmp_path / "driver.log"
    store = open_store(output)

    def kill_when(condition: Any) -> None:
        with log.open("w") as err:
            driver = start_cli("run", str(spec), stderr=err, RAY_ADDRESS=cluster)
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline
            assert driver.poll() is None, "the run ended before it was killed"
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    def copies() -> list[str]:
        return [key for key in store.list("_run") if "/sorted-" in f"/{key}"]

    kill_when(copies)
    assert not store.exists("_run/manifest.json"), "it was killed too late to mean anything"
    kill_when(lambda: len(store.list("results")) >= 5)
    assert "route 'long': 2,400 rows sorted by prefix in" in log.read_text()
    manifest, before = store.read("_run/manifest.json"), copies()
    staged = json.loads(manifest)["staged"]
    assert len(staged) == len(before), "those of the first start are gone"
    parts = {key: store.etag(key) for key in store.list("results")}
    done = cli("run", str(spec), RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert "sorted by prefix" not in done.stderr
    assert (store.read("_run/manifest.json"), copies()) == (manifest, before)
    assert parts.items() <= {key: store.etag(key) for key in store.list("results")}.items()
    results, _ = assert_each_once(output, IDS)
    for row in results:
        shard, number = map(int, row["id"].split("-"))
        assert row["text"] == f"{shard}.{number}"
        assert row["route"] == ("long" if number % 3 else "short")
    changes = 0
    for key in store.list("results"):
        if "long" in key:
            table = pq.read_table(pa.BufferReader(store.read(key)), columns=["group"])
            groups = table["group"].to_pylist()
            changes += 1 + sum(a != b for a, b in itertools.pairwise(groups))
    assert changes < 2 * GROUPS, "neighbours are of the same group"

    # A retry reads its rows from the copies, and settles errors by their places in the input.
    again = cli("retry", output, "--code", "all", "--json", RAY_ADDRESS=cluster)
    assert again.returncode == 0, again.stderr
    _, errors = assert_each_once(output, IDS)
    assert json.loads(again.stdout)["failed"] == len(errors) == SHARDS * (ROWS // SHARDS // 100 + 1)
    for row in errors:
        shard, number = map(int, row["id"].split("-"))
        assert (Path(row["shard"]).name, row["row_number"]) == (f"{shard}.jsonl", number)
        assert row["code"] == ("bad_row" if number == BAD else "null_value")
        assert (row["text"] is None) == (number == BAD)
        if number != BAD:
            assert json.loads(row["row"])["text"] == f"{shard}.{number}"

    # Copies of rows that all have answers go first; without the others there is no retry.
    cleaned = json.loads(cli("clean", output, "--yes", "--json").stdout)
    assert len(cleaned["files"]) + len(cleaned["kept"]) == len(staged)
    assert set(copies()) == {one["key"] for one in cleaned["kept"]}
    assert cli("clean", output, "--yes", "--all-copies").returncode == 0
    assert copies() == []
    refused = cli("retry", output, "--code", "null_value", RAY_ADDRESS="127.0.0.1:1")
    assert refused.returncode == 2
    assert "read from sorted copies of the input, which are no longer" in refused.stderr
    assert json.loads(cli("status", output, "--json").stdout)["open_retry"] == {}
