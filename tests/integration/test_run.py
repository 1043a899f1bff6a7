"""The whole way of a row on a real Ray cluster and a real S3 protocol, with the echo engine."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from jobs.stdlib_docs import write_docs

from .helpers import assert_each_once, cli, start_cli, write_spec
from .known_lines import strange_lines

DOCS, SHARDS, SMALL = 6000, 8, 30


@pytest.fixture(scope="session")
def s3_docs(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Real documents on S3, in 8 Parquet shards and 30 files of one row, and their ids."""
    folder = tmp_path_factory.mktemp("docs")
    write_docs(folder, rows=DOCS, shards=SHARDS)
    bucket = s3.bucket("docs")
    store = open_store(f"{bucket}/in")
    ids: list[str] = []
    for number, path in enumerate(sorted(folder.glob("*.parquet"))):
        if number == SHARDS // 2:
            _put_with_small_files(store, path)
        else:
            store.create(path.name, path.read_bytes())
        ids += pq.read_table(path, columns=["id"])["id"].to_pylist()
    assert len(set(ids)) == DOCS
    return f"{bucket}/in/*.parquet", ids


def _put_with_small_files(store: Store, path: Path) -> None:
    """The first rows as a file each, the others as one file."""
    table = pq.read_table(path)
    pieces = [table.slice(row, 1) for row in range(SMALL)] + [table.slice(SMALL)]
    for number, piece in enumerate(pieces):
        sink = pa.BufferOutputStream()
        pq.write_table(piece, sink)
        store.create(f"{path.stem}-{number:03d}.parquet", sink.getvalue().to_pybytes())


def spec(path: str, model: str, output: str, **extra: Any) -> dict[str, Any]:
    return {
        "name": "docs",
        "input": {"path": path, "id": "id"},
        "prompt": {"user": "Summarise:\n\n{{ doc }}", "overlong": "truncate_end"},
        "model": model,
        "sampling": {"max_tokens": 8},
        "output": {"path": output, "keep": ["module", "line"]},
        "resources": {
            "engine": "echo",
            "max_model_len": 512,
            "replicas": 2,
            "engine_args": {"rows_per_second": 600},
        },
        "policy": {"unit_rows": 100},
        **extra,
    }


def test_every_row_exactly_once_through_two_kills(
    s3: Any, s3_docs: tuple[str, list[str]], tiny: str, cluster: str, tmp_path: Path
) -> None:
    """Promises 1, 2 and 4: SIGKILL of the driver at random moments, and again."""
    path, ids = s3_docs
    output = f"{s3.bucket('out')}/kills"
    job = write_spec(tmp_path / "job.yaml", **spec(path, tiny, output))
    store, chance = open_store(output), random.Random(7)
    committed: dict[str, str] = {}
    for _ in range(2):
        driver = start_cli("run", str(job), RAY_ADDRESS=cluster)
        before = len(committed)
        wanted = before + chance.randint(2, 15)
        deadline = time.monotonic() + 300
        while len(store.list("results")) < wanted and driver.poll() is None:
            assert time.monotonic() < deadline, "no progress within five minutes"
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL, "the driver ended before it was killed"
        parts = {key: store.etag(key) for key in store.list("results")}
        assert committed.items() <= parts.items(), "a committed part vanished or changed"
        committed = parts
        for key in parts:
            pq.read_metadata(pa.BufferReader(store.read(key)))
    done = cli("run", str(job), "--json", RAY_ADDRESS=cluster)
    assert done.returncode == 0, done.stderr
    assert strange_lines(done.stderr) == [], "only lines of this package"
    report = json.loads(done.stdout)
    results, errors = assert_each_once(output, ids)
    assert errors == []
    assert store.list("errors") == ["errors/part-none.parquet"], "it can be read"
    assert (report["complete"], report["answered"], report["failed"]) == (True, DOCS, 0)
    assert report["run_rows"] < DOCS, "the last start did everything again"
    parts = {key: store.etag(key) for key in store.list("results")}
    assert committed.items() <= parts.items()
    assert {row["model"] for row in results} == {tiny}
    assert all(row["module"] for row in results)
    assert sum(row["completion_tokens"] for row in results) == report["completion_tokens"]

    # Once more: nothing is left, so neither a cluster nor an engine is looked for.
    again = cli("run", str(job), "--json", RAY_ADDRESS="127.0.0.1:1")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run_rows"] == 0
