"""Whole rows: `errors.row` has every column of a failed row, by commit and by repair."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing import whole_rows
from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.errors_file import put_no_errors
from gemma_batch.committing.ledger import Ledger
from gemma_batch.committing.manifest import create_manifest
from gemma_batch.committing.repair import settle_errors
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.growth import with_digests
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Failure, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.payload import Prepared, decode, encode
from gemma_batch.units.unit import Shard, Unit
from tests.driver.test_sorting import in_memory, staged

PHOTO = b"\x89PNG"
REFERENCE = {"bytes": 4, "sha256": hashlib.sha256(PHOTO).hexdigest()}
ROWS: list[dict[str, Any]] = [
    {"key": f"k{i}", "text": None if i % 5 == 0 else f"the fox {i}", "n": i, "tags": ["a", None]}
    for i in range(12)
]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]], photo: bytes | None = None) -> bytes:
    rows = [{**row, "photo": photo} for row in rows] if photo else rows
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=4)
    return sink.getvalue().to_pybytes()


def csv(rows: list[dict[str, Any]]) -> bytes:
    return b"key,text,n\n" + b"".join(
        f"{row['key']},{row['text'] or ''},{row['n']}\n".encode() for row in rows
    )


def as_csv(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": row["key"], "text": row["text"] or "", "n": str(row["n"])} for row in rows]


class Run:
    """A planned job over some files, its manifest, and an engine that fails every fourth row."""

    def __init__(self, folder: Path, model: str, files: dict[str, bytes], sort: bool) -> None:
        self.folder = folder
        for name, data in files.items():
            path = folder / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        spec = {
            "input": {"path": f"{folder}/in/**"},
            "prompt": {"user": "Say: {{ text }}"},
            "model": model,
            "sampling": {"max_tokens": 8},
            "output": {"path": str(folder / "out"), "keep": ["key"]},
            "resources": {
                "max_model_len": 256,
                "device": "cpu",
                "sort": "always" if sort else "never",
            },
        }
        self.plan: Plan = make_plan(JobSpec.from_dict(spec)).placed(Hardware(gpu=None))
        self.store: Store = open_store(str(folder / "out"))
        self.staged: list[Shard] = []
        self.units: list[Unit] = self.plan.units()
        if sort:
            self.units, self.staged, _ = staged(self.plan, in_memory(folder))
        create_manifest(
            self.store,
            name="x",
            fingerprint=self.plan.fingerprint(),
            shards=with_digests(self.plan.survey.shards),
            units=self.units,
            spec=spec,
            facts={},
            staged=self.staged,
        )
        self.job = self.plan.job(self.plan.routes[0])
        self.shards = {one.number: one for one in (*self.plan.survey.shards, *self.staged)}

    def prepared(self) -> list[Prepared]:
        made = [encode(Preparer(self.job).prepare(self.shards, unit)) for unit in self.units]
        return [decode(one["unit"][0].as_py(), one["rows"][0].as_buffer()) for one in made]

    def commit(self) -> None:
        for unit in self.prepared():
            outcomes: dict[int, Outcome] = {
                one.number: Failure("deadline", "late", 3)
                if one.number % 4 == 3
                else Completion(["a"], ["stop"], 1, 1)
                for one in unit.requests
            }
            commit_unit(self.store, self.job, unit, {**outcomes, **unit.failures}, {})

    def repair(self) -> int:
        return settle_errors(
            self.store,
            self.shards,
            self.units,
            Ledger(self.store).receipts(),
            self.job.columns,
            self.job.keep_schema,
            reads_all=self.job.reads_all,
        )

    def errors(self) -> dict[str, pa.Table]:
        return {
            path: pq.read_table(pa.BufferReader(self.store.read(path)))
            for path in self.store.list("errors")
        }

    def rows(self) -> dict[tuple[str, int], Any]:
        """What `row` has, by file and row number."""
        found = [row for table in self.errors().values() for row in table.to_pylist()]
        assert found
        return {
            (row["shard"].rpartition("/in/")[2], row["row_number"]): row["row"]
            and json.loads(row["row"])
            for row in found
        }


Make = Callable[..., Run]


@pytest.fixture
def run_of(tmp_path: Path, model: str) -> Make:
    return lambda files, sort=False: Run(tmp_path, model, files, sort)


CASES = {
    "parquet": ({"a.parquet": parquet(ROWS, PHOTO)}, [{**row, "photo": REFERENCE} for row in ROWS]),
    "jsonl": ({"a.jsonl": lines(ROWS)}, ROWS),
    "csv": ({"a.csv.gz": gzip.compress(csv(ROWS))}, as_csv(ROWS)),
    "folders": ({"y=7/a.parquet": parquet(ROWS)}, [{"y": 7, **row} for row in ROWS]),
}


@pytest.mark.parametrize("sort", [False, True], ids=["in order", "sorted"])
@pytest.mark.parametrize("kind", CASES)
def test_a_failed_row_is_there_whole(run_of: Make, kind: str, sort: bool) -> None:
    """Whatever failed it, also from a sorted copy; the repair writes the same bytes."""
    files, rows = CASES[kind]
    run = run_of(files, sort)
    run.commit()
    found = run.rows()
    assert {number for _, number in found} >= {0, 5, 10}, "their text is null"
    assert len(found) > 3, "the engine failed rows too"
    (name,) = files
    assert found == {(name, number): rows[number] for _, number in found}
    before = {path: run.store.read(path) for path in run.store.list("errors")}
    for path in before:
        run.store.delete(path)
    assert run.repair() == len(before)
    assert {path: run.store.read(path) for path in run.store.list("errors")} == before


def test_rows_of_small_files_in_one_unit(run_of: Make) -> None:
    """Each from its file; a line that cannot be read has no row."""
    files = {
        f"{i}.jsonl": lines([{**ROWS[0], "file": i}, {**ROWS[1], "late": i}]) for i in range(4)
    }
    run = run_of({**files, "9.jsonl": b"{broken\n"})
    assert [len(unit.shards) for unit in run.units] == [5]
    run.commit()
    found = run.rows()
    assert found.pop(("9.jsonl", 0)) is None
    assert found.pop(("1.jsonl", 1)) == {**ROWS[1], "late": 1}, "the engine failed it"
    expected = {(f"{i}.jsonl", 0): {**ROWS[0], "file": i} for i in range(4)}
    assert expected.items() <= found.items()


def test_a_job_that_reads_every_column_reads_no_row_twice(
    run_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is there already: no child is asked."""
    monkeypatch.setattr(whole_rows, "_asked", None)
    run = run_of({"a.parquet": parquet([{"key": "k", "text": None}] * 3)})
    assert run.job.reads_all
    run.commit()
    assert set(map(str, run.rows().values())) == {str({"key": "k", "text": None})}


@pytest.mark.parametrize("change", ["changed", "gone", "touched"])
def test_a_file_that_changed_since_leaves_the_columns_that_were_read(
    run_of: Make, change: str
) -> None:
    """The values of another state of the file are not put beside the old ones."""
    run = run_of({"a.jsonl": lines(ROWS)})
    prepared = run.prepared()
    path = run.folder / "in" / "a.jsonl"
    path.unlink() if change == "gone" else path.write_bytes(lines(ROWS[::-1]))
    if change == "touched":
        path.write_bytes(lines(ROWS))
    run.prepared = lambda: prepared  # type: ignore[method-assign]
    run.commit()
    found = run.rows()
    whole = change == "touched"
    assert found["a.jsonl", 5] == (ROWS[5] if whole else {"key": "k5", "text": None})


def test_a_child_that_ended_is_started_again(run_of: Make) -> None:
    """As when it was not needed for a minute."""
    run = run_of({"a.jsonl": lines(ROWS)})
    run.commit()
    first = whole_rows._child._process
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    (path,) = run.store.list("errors")
    before = run.store.read(path)
    run.store.delete(path)
    assert run.repair() == 1
    assert run.store.read(path) == before


DEADLY = """
import os
from gemma_batch.storage.readers.jsonl import JsonlReader
read = JsonlReader.read
def deadly(self, file, span, columns):
    return os._exit(9) if columns is None else read(self, file, span, columns)
JsonlReader.read = deadly
"""


def test_columns_that_kill_their_reader_cost_neither_engine_nor_driver(
    run_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The row has the columns that the job reads, which did come through; the log tells."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    whole_rows._end()
    run = run_of({"a.jsonl": lines(ROWS)})
    run.commit()
    assert run.rows()["a.jsonl", 5] == {"key": "k5", "text": None}
    assert "the process that read them died" in caplog.text
    whole_rows._end()


def test_storage_that_does_not_answer_costs_no_commit(
    run_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """The part stands, the log tells, and the driver's repair writes the errors file later."""
    run = run_of({"a.jsonl": lines(ROWS)})
    prepared = run.prepared()
    run.prepared = lambda: prepared  # type: ignore[method-assign]
    manifest = run.folder / "out" / "_run" / "manifest.json"
    text = manifest.read_bytes()
    manifest.unlink()
    manifest.mkdir()  # a file that cannot be read, as storage that fails
    run.commit()
    assert run.store.list("errors") == []
    assert len(run.store.list("results")) == 1
    assert "the driver will write 'errors/part-00000" in caplog.text
    manifest.rmdir()
    manifest.write_bytes(text)
    assert run.repair() == 1
    assert run.rows()["a.jsonl", 5] == ROWS[5]


def test_the_repair_does_not_open_a_file_that_could_not_be_read(run_of: Make) -> None:
    """It may take down the process that reads it, and the driver must live."""
    run = run_of({"a.jsonl": lines(ROWS)})
    (unit,) = run.units
    given = Preparer(run.job).give_up(run.shards, unit)
    commit_unit(run.store, run.job, given, dict(given.failures), {})
    before = run.errors()
    run.store.delete(next(iter(before)))
    opened: list[str] = []

    class Watched(Shard):
        __slots__ = ()

        @property
        def reader(self) -> Any:
            opened.append(self.url)
            return super().reader

    (shard,) = run.plan.survey.shards
    fields = {name: getattr(shard, name) for name in Shard.__slots__}
    run.shards = {0: Watched(**fields)}
    assert run.repair() == 1
    assert opened == []
    assert run.errors() == before


@pytest.mark.parametrize("shaped", [False, True])
def test_errors_without_a_row_can_be_read(run_of: Make, shaped: bool) -> None:
    """Beside errors files of units it is one table with them, and is taken for none of them."""
    import duckdb
    import pandas

    run = run_of({"a.jsonl": lines(ROWS)})
    put_no_errors(run.store, run.job.keep_schema, with_output=shaped)
    put_no_errors(run.store, run.job.keep_schema, with_output=shaped)
    pattern = f"{run.store.url}/errors/*.parquet"
    assert duckdb.sql(f"SELECT code, row, key FROM '{pattern}'").fetchall() == []
    frame = pandas.read_parquet(f"{run.store.url}/errors")
    assert ("output" in frame.columns, len(frame)) == (shaped, 0)
    assert Ledger(run.store).errors() == {}
    if not shaped:
        run.commit()
        assert len({table.schema for table in run.errors().values()}) == 1
        assert duckdb.sql(f"SELECT count(*) FROM '{pattern}'").fetchall() == [(len(run.rows()),)]
        assert run.repair() == 0
