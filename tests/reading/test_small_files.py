"""Many small files: one unit holds several, and each file is still alone with its troubles."""

from __future__ import annotations

import gzip
import io
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.committing.commit import commit_unit
from gemma_batch.committing.ledger import Ledger, part_failures
from gemma_batch.committing.repair import settle_errors
from gemma_batch.errors import InputError
from gemma_batch.family.hardware import Hardware
from gemma_batch.planning.passes import Failed, derive
from gemma_batch.planning.plan import Plan, make_plan
from gemma_batch.reading.prepare import Preparer
from gemma_batch.rows import Completion, Outcome
from gemma_batch.spec import JobSpec
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.interfaces import Store
from gemma_batch.units.bundle import pack_shards, shards_of, unpack_shards
from gemma_batch.units.payload import Prepared, decode, encode
from gemma_batch.units.unit import Unit, read_units, write_units
from tests.faults.proxy import FaultProxy

if TYPE_CHECKING:
    from tests.conftest import S3Server

ANSWER = Completion(["an answer"], ["stop"], 5, 2)
ROUTES = [{"name": "even", "when": "n::int % 2 = 0"}, {"name": "odd"}]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A place for input files, local and on S3."""
    if request.param == "local":
        return open_store(str(tmp_path / "in"))
    return open_store(f"{request.getfixturevalue('s3').bucket('small')}/{uuid.uuid4().hex}")


def rows_of(file: int, count: int) -> list[dict[str, Any]]:
    return [{"doc": f"the fox {file} {row}", "n": file + row} for row in range(count)]


def contents(kind: str, rows: list[dict[str, Any]]) -> bytes:
    if kind == "parquet":
        sink = io.BytesIO()
        schema = pa.schema([("doc", pa.string()), ("n", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, row_group_size=50)
        return sink.getvalue()
    if kind == "csv":
        return ("doc,n\n" + "".join(f"{row['doc']},{row['n']}\n" for row in rows)).encode()
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(folder: Store, sizes: list[int], kind: str = "parquet") -> None:
    for file, count in enumerate(sizes):
        folder.put(f"{file:05d}.{kind}", contents(kind, rows_of(file, count)))


def plan_for(folder: Store, model: str, *, split: bool = False, **changes: Any) -> Plan:
    """A plan; with `split`, rows go to two routes."""
    models = (
        {"routes": [{**route, "model": model} for route in ROUTES]} if split else {"model": model}
    )
    data = {
        "input": {"path": f"{folder.url}/"},
        "prompt": {"user": "Say: {{ doc }}"},
        **models,
        "sampling": {"max_tokens": 8},
        "output": {"path": "./out", "keep": ["n"]},
        "resources": {"engine": "echo", "max_model_len": 256},
        **changes,
    }
    return make_plan(JobSpec.from_dict(data)).placed(Hardware(gpu=None))


def read(plan: Plan, units: list[Unit]) -> list[Prepared]:
    """The units, by way of what Ray carries: to the task that reads and to the actor."""
    preparers = {route.route.name: Preparer(plan.job(route)) for route in plan.routes}
    found = []
    for unit in units:
        shards = unpack_shards(pack_shards(shards_of([unit], plan.survey.shards)))
        made = encode(preparers[unit.route].prepare(shards, unit))
        found.append(decode(made["unit"][0].as_py(), made["rows"][0].as_buffer()))
        assert found[-1].unit == unit
    return found


def commit(plan: Plan, store: Store, prepared: list[Prepared]) -> None:
    """Every request is answered."""
    jobs = {route.route.name: plan.job(route) for route in plan.routes}
    for unit in prepared:
        answers: dict[int, Outcome] = {request.number: ANSWER for request in unit.requests}
        commit_unit(store, jobs[unit.unit.route], unit, {**answers, **unit.failures}, {})


def table(store: Store, folder: str) -> list[dict[str, Any]]:
    parts = [pq.read_table(pa.BufferReader(store.read(name))) for name in store.list(folder)]
    return [row for part in parts for row in part.to_pylist()]


SIZES = [1, 3, 0, 1, 0, 0, 2, 60, 1, 1, 12, 0]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
@pytest.mark.parametrize("split", [False, True], ids=["one route", "routes"])
@pytest.mark.parametrize("most", [2, 7, 1000])
def test_every_row_keeps_its_id_whatever_shares_its_unit(
    tmp_path: Path, model: str, kind: str, split: bool, most: int
) -> None:
    """Empty files and large ones in between; every row once, with the id of its file and place."""
    folder = open_store(str(tmp_path / "in"))
    put(folder, SIZES, kind)
    plan = plan_for(folder, model, split=split, policy={"unit_rows": most})
    units = plan.units()
    assert read_units(write_units(units)) == units
    assert all(unit.rows <= most for unit in units)
    prepared = read(plan, units)
    expected = {
        f"{file:05d}-{row:010d}": (file + row, f"the fox {file} {row}")
        for file, count in enumerate(SIZES)
        for row in range(count)
    }
    found = {}
    for unit in prepared:
        assert not unit.failures
        assert [request.number for request in unit.requests] == unit.numbers == unit.unit.numbers
        kept = [int(value) for value in unit.keep["n"].to_pylist()]
        found.update(zip(unit.ids, kept, strict=True))
        if split:
            assert {n % 2 for n in kept} == {0 if unit.unit.route == "even" else 1}
    assert found == {row: n for row, (n, _) in expected.items()}
    assert sum(unit.expected for unit in units) == len(expected)
    if most == 1000 and not split:
        assert [unit.members for unit in units] == [tuple(SIZES[:-1])]


def harm(folder: Store, name: str, how: str) -> None:
    if how == "gone":
        folder.delete(name)
    elif how == "replaced":
        folder.put(name, contents("parquet", rows_of(77, 9)))
    elif how == "cut short":
        folder.put(name, folder.read(name)[:-20])


@pytest.mark.parametrize(
    ("how", "code"),
    [("gone", "shard_unreadable"), ("replaced", "shard_changed"), ("cut short", "shard_changed")],
)
def test_a_file_that_goes_bad_after_planning_costs_its_own_rows(
    folder: Store, tmp_path: Path, model: str, how: str, code: str
) -> None:
    """As many as were planned; `errors` names file and row; a retry reads no other file."""
    put(folder, [1, 3, 2, 1])
    plan = plan_for(folder, model)
    (unit,) = plan.units()
    harm(folder, "00001.parquet", how)
    store = open_store(str(tmp_path / "out"))
    commit(plan, store, read(plan, [unit]))
    url = f"{folder.url}/00001.parquet"
    errors = table(store, "errors")
    assert [(row["id"], row["code"], row["shard"], row["row_number"]) for row in errors] == [
        (f"00001-{n:010d}", code, url, n) for n in range(3)
    ]
    assert all(url in row["message"] for row in errors)
    ids = [row["id"] for row in table(store, "results")]
    assert ids == [f"{file:05d}-{n:010d}" for file, n in ((0, 0), (2, 0), (2, 1), (3, 0))]

    # The repair makes the same file, and a retry takes the rows and only looks at their file.
    (path,) = store.list("errors")
    store.delete(path)
    receipts = Ledger(store).receipts()
    job = plan.job(plan.routes[0])
    settle_errors(store, plan.survey.shards, [unit], receipts, job.columns, job.keep_schema)
    assert table(store, "errors") == errors
    (again,) = derive(store, [unit], receipts, Failed({code}), 1)
    assert (again.numbers, again.expected, again.members) == ([1, 2, 3], 3, unit.members)
    for name in ("00000", "00002", "00003"):
        folder.delete(f"{name}.parquet")
    (prepared,) = read(plan, [again])
    assert {failure.code for failure in prepared.failures.values()} == {code}


def test_bytes_that_rot_cost_the_rows_of_their_file(tmp_path: Path, model: str) -> None:
    """The data of a file is damaged but not its footer: no plan sees it."""
    folder = open_store(str(tmp_path / "in"))
    put(folder, [1, 60, 1])
    data = bytearray(folder.read("00001.parquet"))
    data[4:200] = bytes(196)
    folder.put("00001.parquet", bytes(data))
    (prepared,) = read(plan := plan_for(folder, model), plan.units())
    assert sorted(prepared.failures) == list(range(1, 61))
    assert {failure.code for failure in prepared.failures.values()} == {"shard_unreadable"}
    assert [request.number for request in prepared.requests] == [0, 61]


def test_one_broken_file_among_many_costs_one_row(tmp_path: Path, model: str) -> None:
    """How many rows it has is not known; the plan says so, and the row fails when it is read."""
    folder, files = open_store(str(tmp_path / "in")), 100
    put(folder, [1] * files)
    folder.put("00007.parquet", b"PAR1 this is no Parquet file PAR1")
    plan = plan_for(folder, model)
    (note,) = plan.notes
    assert f"1 of the {files} input files cannot be read: it counts as one row" in note
    assert "00007.parquet" in note
    said: list[str] = []
    units = plan.units(1, said.append)
    assert said == []
    assert sum(unit.expected for unit in units) == files
    prepared = read(plan, units)
    failures = [failure for unit in prepared for failure in unit.failures.values()]
    assert [failure.code for failure in failures] == ["shard_unreadable"]
    assert "00007-0000000000" in [row for unit in prepared for row in unit.ids]


@pytest.mark.parametrize(("files", "bad"), [(1, 1), (99, 1), (150, 2)])
def test_more_than_a_few_broken_files_are_refused(
    tmp_path: Path, model: str, files: int, bad: int
) -> None:
    """Before anything costs money: something else is wrong then."""
    folder = open_store(str(tmp_path / "in"))
    put(folder, [1] * files)
    for file in range(bad):
        folder.put(f"{file:05d}.parquet", b"no")
    with pytest.raises(InputError, match="corrupt" if bad == 1 else "more than 1% of the"):
        plan_for(folder, model)


def test_an_archive_that_is_broken_is_seen_when_units_are_cut(tmp_path: Path, model: str) -> None:
    """Of JSON lines, the survey looks at a few files only; the cut reads them all, and says it."""
    folder = open_store(str(tmp_path / "in"))
    for file in range(120):
        data = gzip.compress(contents("jsonl", rows_of(file, 2)))
        folder.put(f"{file:05d}.jsonl.gz", data[:-9] if file == 100 else data)
    plan = plan_for(folder, model)
    assert plan.notes == ()
    said: list[str] = []
    units = plan.units(1, said.append)
    (note,) = said
    assert "00100.jsonl.gz" in note
    assert sum(unit.expected for unit in units) == 239
    failures = [failure for unit in read(plan, units) for failure in unit.failures.values()]
    assert [failure.code for failure in failures] == ["shard_unreadable"]


def test_rows_that_the_plan_did_not_see_are_not_left_out_in_silence(
    tmp_path: Path, model: str
) -> None:
    """A file that was taken for broken and is not: its row fails, and no row is half answered."""
    folder = open_store(str(tmp_path / "in"))
    put(folder, [2, 2])
    plan = plan_for(folder, model)
    (unit,) = plan.units()
    wrong = Unit(
        shard=0, first_row=0, rows=3, mark=0, bytes=1, route=unit.route, expected=3, members=(1, 2)
    )
    (prepared,) = read(plan, [wrong])
    assert list(prepared.failures) == [0]
    assert "more rows than the 1" in prepared.failures[0].message


# Python runs it at its start: reading a file with such a name ends the process, as a fault of a
# decoder would.
DEADLY = """
import os
from gemma_batch.storage.readers.parquet import ParquetReader
read = ParquetReader.read
def deadly(self, file, *rest):
    return os._exit(9) if "deadly" in file.url else read(self, file, *rest)
ParquetReader.read = deadly
"""


def test_a_file_that_kills_its_readers_costs_its_rows(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child processes find out which one it is; the files beside it are answered."""
    folder, deadly = open_store(str(tmp_path / "in")), [0, 3]
    for file, count in enumerate([1, 2, 1, 2]):
        name = f"{file:05d}{'-deadly' if file in deadly else ''}.parquet"
        folder.put(name, contents("parquet", rows_of(file, count)))
    plan = plan_for(folder, model)
    (unit,) = plan.units()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    given = Preparer(plan.job(plan.routes[0])).give_up(plan.survey.shards, unit)
    failed = [row for number, row in enumerate(given.ids) if number in given.failures]
    assert sorted({int(row[:5]) for row in failed}) == deadly
    assert all("died" in failure.message for failure in given.failures.values())
    answered = [given.ids[request.number] for request in given.requests]
    assert sorted({int(row[:5]) for row in answered}) == [1, 2]
    assert len(failed) + len(answered) == 6


def test_a_small_object_costs_two_requests(
    s3: S3Server, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One to plan, which tells columns and rows, and one to read, which tells the ETag."""
    folder, proxy = open_store(f"{s3.bucket('counted')}/in"), FaultProxy(s3.endpoint)
    put(folder, [1, 2, 1])
    proxy.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    try:
        plan = plan_for(folder, model)
        units = plan.units()
        planned = [line for line in proxy.requests if "parquet" in line]
        read(plan, units)
    finally:
        proxy.stop()
    names = [f"GET /counted/in/{file:05d}.parquet" for file in range(3)]
    assert sorted(planned) == names
    assert sorted(line for line in proxy.requests if "parquet" in line) == sorted(2 * names)


def test_hundreds_of_files_are_a_few_parts(tmp_path: Path, model: str) -> None:
    """From plan to commit: one file is broken, one goes: two failures, all else is there."""
    folder, files = open_store(str(tmp_path / "in")), 800
    data = {n: contents("parquet", rows_of(n, 1)) for n in range(2)}
    (tmp_path / "in").mkdir()
    for file in range(files):
        (tmp_path / "in" / f"{file:05d}.parquet").write_bytes(data[file % 2])
    (tmp_path / "in" / "00500.parquet").write_bytes(b"broken")
    plan, store = plan_for(folder, model), open_store(str(tmp_path / "out"))
    units = plan.units(2)
    assert len(units) <= 20
    (tmp_path / "in" / "00700.parquet").unlink()
    commit(plan, store, read(plan, units))
    answered = [row["id"] for row in table(store, "results")]
    failed = {row["id"]: row["code"] for row in table(store, "errors")}
    assert failed == dict.fromkeys(["00500-0000000000", "00700-0000000000"], "shard_unreadable")
    assert sorted([*answered, *failed]) == [f"{file:05d}-0000000000" for file in range(files)]
    done = Ledger(store).committed()
    assert Ledger(store).remaining(units, done) == []
    assert sum(len(part_failures(store, path)) for path in done.values()) == 2
