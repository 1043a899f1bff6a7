"""Errors files: the commit and the repair write the same, from what came with the unit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.repair import settle_errors
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Failure, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared, decode, encode
from tests.faults.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.conftest import S3Server

# The type of a column comes from the first 1,000 lines; so the last line has a value that no column
# of numbers holds.
GOOD = [f'{{"key": "k{i}", "text": "the fox", "n": {i}}}' for i in range(1000)]
LINES = [
    *GOOD,
    '{"key": "null", "text": null, "n": 1}',
    '{"key": "late", "text": "the döner", "n": 2}',
    "{broken",
    '{"key": "four", "text": "a quick dog", "n": "four"}',
]
LATE = 1001


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy that only writes down what is asked of the object store."""
    made = FaultProxy(s3.endpoint)
    made.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.stop()


def planned(source: str, model: str) -> Plan:
    data: dict[str, Any] = {
        "input": {"path": source, "id": "key"},
        "prompt": {"user": "Say: {{ text }}"},
        "model": model,
        "sampling": {"max_tokens": 8},
        "output": {"path": "./out", "keep": ["n", "text"]},
        "resources": {"engine": "echo", "max_model_len": 256},
        "policy": {"unit_rows": 2000},
    }
    return make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None))


def prepared(plan: Plan) -> Prepared:
    """The only unit, by way of what Ray carries to the actor."""
    (unit,) = plan.units()
    made = encode(Preparer(plan.job(plan.routes[0])).prepare(plan.survey.shards, unit))
    return decode(made["unit"][0].as_py(), made["rows"][0].as_buffer())


def outcomes(unit: Prepared) -> dict[int, Outcome]:
    """The engine fails the row `LATE`, and answers the others that came to it."""
    answer = Completion(["a"], ["stop"], 1, 1)
    found: dict[int, Outcome] = {
        request.number: answer if request.number != LATE else Failure("deadline", "late", 3)
        for request in unit.requests
    }
    return {**found, **unit.failures}


def errors(store: Store) -> pa.Table:
    (name,) = store.list("errors")
    return pq.read_table(pa.BufferReader(store.read(name)))


def test_the_columns_that_the_job_reads_come_with_the_unit(
    proxy: FaultProxy, s3: S3Server, model: str, tmp_path: Path
) -> None:
    """Rows that failed while reading, rendering and in the engine; the actor reads no input.

    (No manifest tells here where the files are, so nobody looks for other columns.)
    """
    place = open_store(f"{s3.bucket('once')}/in")
    place.put("rows.jsonl", "\n".join(LINES).encode())
    plan, store = planned(f"{place.url}/rows.jsonl", model), open_store(str(tmp_path / "out"))
    unit = prepared(plan)
    before = len(proxy.requests)
    assert "GET /once/in/rows.jsonl" in proxy.requests, "the input goes by the proxy"
    commit_unit(store, plan.job(plan.routes[0]), unit, outcomes(unit), {})
    assert proxy.requests[before:] == []
    found = errors(store).to_pylist()
    facts = [(row["id"], row["code"], row["n"], row["text"], row["row_number"]) for row in found]
    assert facts == [
        ("null", "null_value", 1, None, 1000),
        ("late", "deadline", 2, "the döner", 1001),
        ("00000-0000001002", "bad_row", None, None, 1002),
        ("four", "bad_value", None, "a quick dog", 1003),
    ]
    assert [row["row"] and json.loads(row["row"]) for row in found] == [
        {"key": "null", "text": None, "n": 1},
        {"key": "late", "text": "the döner", "n": 2},
        None,
        {"key": "four", "text": "a quick dog", "n": "four"},
    ]
    assert {row["shard"] for row in found} == {f"{place.url}/rows.jsonl"}


def test_the_repair_writes_what_the_commit_wrote(model: str, tmp_path: Path) -> None:
    """From the footer and the input; so it does not matter which of the two came to it."""
    (tmp_path / "in.jsonl").write_text("\n".join(LINES))
    plan, store = planned(str(tmp_path / "in.jsonl"), model), open_store(str(tmp_path / "out"))
    unit = prepared(plan)
    job = plan.job(plan.routes[0])
    commit_unit(store, job, unit, outcomes(unit), {})
    before = errors(store)
    (tmp_path / "out" / store.list("errors")[0]).unlink()
    shards, receipts = plan.survey.shards, Ledger(store).receipts()
    args = (shards, [unit.unit], receipts, job.columns, job.keep_schema)
    assert settle_errors(store, *args) == 1
    assert errors(store).equals(before)
