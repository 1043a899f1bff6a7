"""An input that grows: each day's files go into the same output (promises 1, 2 and 5)."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.increments import increment_key
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.storage.parts import parse_part_name

from .helpers import assert_each_once, cli, start_cli, write_spec

NOWHERE = "127.0.0.1:1"  # a command that looks for a cluster fails
ROWS = 60


def write_day(folder: Path, day: int) -> list[str]:
    """The files of a day, two on every third day, and the ids of their rows; one text is null."""
    ids = [f"d{day:02d}-{row}" for row in range(ROWS)]
    table = pa.table(
        {"id": ids, "day": pa.array([day] * ROWS, pa.int16() if day % 2 else pa.int32()),
         "text": [f"message {row} of day {day}" if row else None for row in range(ROWS)]}
    )  # fmt: skip
    parts = [table.slice(0, 20), table.slice(20)] if day % 3 == 0 else [table]
    for number, part in enumerate(parts):
        pq.write_table(part, folder / f"day-{day:02d}-{number}.parquet")
    return ids


def kill_in_the_middle(job: Path, store: Store, number: int, parts: int, cluster: str) -> None:
    """SIGKILL of the driver when the increment is put and so many new parts are committed."""
    before = len(store.list("results"))
    driver = start_cli("run", str(job), RAY_ADDRESS=cluster)
    deadline = time.monotonic() + 300
    key = increment_key(number) if number else "_run/manifest.json"
    while not store.exists(key) or len(store.list("results")) < before + parts:
        assert driver.poll() is None, "the driver ended before it was killed"
        assert time.monotonic() < deadline, "no progress within five minutes"
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL


@pytest.mark.parametrize("days", [2, pytest.param(30, marks=pytest.mark.long)])
def test_each_day_adds_its_rows_once(tiny: str, cluster: str, tmp_path: Path, days: int) -> None:
    """A kill each day, a day without files, a changed file, and retries between them."""
    folder, chance = tmp_path / "in", random.Random(3)
    folder.mkdir()
    output, store = str(tmp_path / "out"), open_store(str(tmp_path / "out"))
    job = write_spec(
        tmp_path / "job.yaml",
        input={"path": f"{folder}/*.parquet", "id": "id", "grow": True},
        prompt={"user": "{{ text }}"},
        model=tiny,
        sampling={"max_tokens": 4},
        output={"path": output, "keep": ["day"]},
        resources={
            "engine": "echo",
            "max_model_len": 512,
            "replicas": 1,
            "engine_args": {"rows_per_second": 150},
        },
        policy={"unit_rows": 10, "max_failed": days},
    )
    ids: list[str] = []
    for day in range(days):
        ids += write_day(folder, day)
        kill_in_the_middle(job, store, day, parts=chance.randint(0, 3), cluster=cluster)
        parts = {key: store.etag(key) for key in store.list("results")}
        done = cli("run", str(job), "--json", RAY_ADDRESS=cluster)
        assert done.returncode == 0, done.stderr
        assert parts.items() <= {key: store.etag(key) for key in store.list("results")}.items()
        report = json.loads(done.stdout)
        assert (report["complete"], report["rows"]) == (True, len(ids))
        assert report["run_rows"] <= ROWS, "rows of earlier days were asked again"
        if day == 0:  # null texts stay null; the next day's units come beside the retry's parts
            again = cli("retry", output, "--code", "all", RAY_ADDRESS=cluster)
            assert again.returncode == 0, again.stderr

    results, errors = assert_each_once(output, ids)
    assert {row["id"] for row in errors} == {one for one in ids if one.endswith("-0")}
    assert all(row["day"] == int(row["id"][1:3]) for row in results)
    assert sum(row["completion_tokens"] for row in results) == report["completion_tokens"]
    counts = [(one["rows"], one["answered"], one["failed"]) for one in report["increments"]]
    assert counts == [(ROWS, ROWS - 1, 1)] * days
    counted = "count(*), count(DISTINCT id), count(DISTINCT day)"
    query = f"SELECT {counted} FROM '{output}/results/*.parquet'"
    assert duckdb.sql(query).fetchall() == [(len(results), len(results), days)]
    schemas = {pq.read_schema(path) for path in (tmp_path / "out" / "results").iterdir()}
    assert len(schemas) == 1

    # A day without new files: neither a cluster nor an engine is looked for.
    same = cli("run", str(job), "--json", RAY_ADDRESS=NOWHERE)
    assert (same.returncode, json.loads(same.stdout)["run_rows"]) == (0, 0), same.stderr
    # A file that was copied anew is no change; one with other contents is, and is named.
    first = folder / "day-00-0.parquet"
    contents = first.read_bytes()
    os.utime(first, (1, 1))
    assert cli("run", str(job), RAY_ADDRESS=NOWHERE).returncode == 0
    pq.write_table(pq.read_table(first).slice(1), first)
    changed = cli("run", str(job), RAY_ADDRESS=NOWHERE)
    assert changed.returncode == 2
    assert "1 input file(s) changed" in changed.stderr
    assert repr(str(first)) in changed.stderr
    first.unlink()
    assert "1 input file(s) missing" in cli("run", str(job), RAY_ADDRESS=NOWHERE).stderr
    first.write_bytes(contents)

    # `plan` says what is new; without `grow` it is refused, and so is a run.
    ids += write_day(folder, days)
    told = cli("plan", str(job))
    rows = f"{len(ids) - ROWS:,} answered already"
    assert "new file" in told.stderr
    assert rows in told.stderr, told.stderr
    refused = cli("run", str(job), "--set", "input.grow=false", RAY_ADDRESS=NOWHERE)
    assert refused.returncode == 2
    assert "--grow" in refused.stderr
    left = cli("retry", output, "--json", RAY_ADDRESS=NOWHERE)  # of the files that it knows
    assert left.returncode == 0, left.stderr
    status: dict[str, Any] = json.loads(cli("status", output, "--json").stdout)
    assert (status["state"], status["rows"]) == ("complete", len(ids) - ROWS)
    numbers = {key.shard for path in store.list("results") if (key := parse_part_name(path[8:]))}
    assert len(numbers) == len(list(folder.iterdir())) - (2 if days % 3 == 0 else 1)
