"""Input files that are broken, or change while the run reads them."""

from __future__ import annotations

import json
from pathlib import Path

from ..harness import Bench, Job, Lost
from ..scenarios import fault


def _shards(job: Job) -> list[Path]:
    return sorted((job.folder / "in").iterdir())


def _refused(job: Job, *words: str) -> Job:
    driver = job.start()
    code = driver.wait()
    said = job.tail()
    if code != 2 or any(word not in said for word in words):
        raise Lost(f"exit code {code}, {words} expected in: {said}")
    if job.parts() or driver.workers():
        raise Lost("something was started")
    job.refused = said.strip().splitlines()[-1]
    return job


@fault("bad shards", "truncated Parquet file")
def shard_truncated(bench: Bench) -> Job:
    """Found while planning: exit code 2, the file named, nothing started."""
    job = bench.job("shard-truncated")
    shard = _shards(job)[2]
    shard.write_bytes(shard.read_bytes()[:-100])
    return _refused(job, shard.name)


@fault("bad shards", "empty Parquet file")
def shard_empty(bench: Bench) -> Job:
    """No Parquet file at all."""
    job = bench.job("shard-empty")
    shard = _shards(job)[1]
    shard.write_bytes(b"")
    return _refused(job, shard.name)


@fault("bad shards", "another schema in one shard: the prompt's column is missing")
def shard_schema(bench: Bench) -> Job:
    """Found while planning, naming column and file."""
    import pyarrow.parquet as pq

    job = bench.job("shard-schema")
    shard = _shards(job)[3]
    table = pq.read_table(shard)
    pq.write_table(
        table.rename_columns(["text" if n == "doc" else n for n in table.column_names]), shard
    )
    return _refused(job, shard.name, "'doc'")


@fault("bad shards", "invalid UTF-8, JSON broken at line N, an empty file beside")
def shard_lines(bench: Bench) -> Job:
    """Bad lines become bad_row, each under its shard and row number."""
    job = bench.job("shard-lines", format="jsonl")
    (job.folder / "in" / "empty.jsonl").write_bytes(b"")
    paths = _shards(job)
    docs = dict(job.docs)
    for number, (shard, line, junk) in enumerate(
        [
            (1, 7, b'{"id": "x", "doc": "\xff\xfe"}'),
            (1, 300, b'{"id": "y", "doc": '),
            (3, 0, b"[1]"),
        ]
    ):
        lines = paths[shard].read_bytes().splitlines()
        del docs[json.loads(lines[line])["id"]]
        lines[line] = junk
        paths[shard].write_bytes(b"\n".join(lines) + b"\n")
        key = f"{shard:05d}-{line:010d}"
        docs[key] = str(number)
        job.expected_failures[key] = "bad_row"
    job.docs = docs
    if job.finish() != 3:
        raise Lost("bad rows must give exit code 3")
    return job


def _changing(bench: Bench, name: str, *, replace: bool) -> Job:
    job = bench.job(name)
    driver = job.start()
    manifest = job.folder / "out" / "_run" / "manifest.json"
    driver.until(manifest.exists, "the manifest was written")
    shard = _shards(job)[3]
    if replace:
        shard.write_bytes(_shards(job)[0].read_bytes())
    else:
        shard.unlink()
    code = driver.wait()
    # Rows that were read before stand; the others cannot be named by an id that is gone.
    failed = job.rows("errors")
    keys = list(job.docs)
    size = len(keys) // 4
    docs = dict(job.docs)
    for row in failed:
        where, _, number = row["id"].partition("-")
        if where != "00003" or row["code"] not in {"shard_changed", "shard_unreadable"}:
            raise Lost(f"{row} failed although its shard was left alone")
        docs.pop(keys[3 * size + int(number)])
        docs[row["id"]] = ""
        job.expected_failures[row["id"]] = row["code"]
    if code != 3 or not failed:
        raise Lost(f"exit code {code} with {len(failed)} failed rows")
    job.docs = docs
    return job


@fault("bad shards", "file deleted during the run")
def shard_deleted(bench: Bench) -> Job:
    """Its rows that were not read yet fail, named; all others are answered."""
    return _changing(bench, "shard-deleted", replace=False)


@fault("bad shards", "file replaced during the run")
def shard_replaced(bench: Bench) -> Job:
    """Rows of the new content never get in."""
    return _changing(bench, "shard-replaced", replace=True)
