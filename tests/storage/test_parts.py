"""Parts: names, columns, receipts and failures survive the round trip; kept values are whole."""

from __future__ import annotations

import datetime
import hashlib
import io
import json
import math
import time
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_batch.answering.answers import AnswerShape
from gemma_batch.errors import OutputError
from gemma_batch.planning.columns import RESERVED_COLUMNS
from gemma_batch.rows import Row
from gemma_batch.storage.fs import open_store
from gemma_batch.storage.keep import as_json, as_text, check_keep, keep_column, keep_value
from gemma_batch.storage.parts import (
    PartKey,
    build_errors,
    build_results,
    errors_schema,
    parse_part_name,
    read_errors,
    read_receipt,
    results_schema,
)
from gemma_batch.units.raw_rows import pack, raw_rows, unpack

KEEP = pa.schema([("ticket", pa.int64()), ("day", pa.date32())])
DAY = datetime.date(2026, 1, 2)
SCHEMA = results_schema(KEEP, AnswerShape().fields())


def columns(rows: int, **more: list[Any]) -> dict[str, list[Any]]:
    return {
        "ticket": list(range(rows)),
        "day": [DAY] * rows,
        "id": [f"id-{i}" for i in range(rows)],
        "output": [f"answer {i} é" for i in range(rows)],
        "finish_reason": ["stop"] * rows,
        "prompt_tokens": [100 + i for i in range(rows)],
        "completion_tokens": [7] * rows,
        "cached_tokens": [0] * rows,
        "model": ["m"] * rows,
        "route": ["all"] * rows,
        "attempts": [1] * rows,
        "seconds": [0.5] * rows,
        **more,
    }


def test_a_part_comes_back_with_its_receipt_and_failures(place: str) -> None:
    """Rows by any Parquet reader, receipt and failures from the footer alone."""
    receipt = {"rows": 5, "answered": 3, "finished": 1.5, "failures": {"bad_row": 2}, "nan": None}
    failures = [
        {"number": i, "id": f"ü{i}", "code": "bad_row", "message": "x" * 500, "attempts": 0,
         "seconds": 0.0}
        for i in range(2)
    ]  # fmt: skip
    data = build_results(columns(3), SCHEMA, receipt, failures)
    store = open_store(place)
    assert store.create("results/part", data)
    assert read_receipt(store.open("results/part")) == (receipt, failures)
    assert read_receipt(data) == (receipt, failures)
    table = pq.read_table(io.BytesIO(store.read("results/part")))
    assert table.schema.equals(SCHEMA)
    assert table.to_pydict() == columns(3)
    assert table.schema.metadata is None or b"gemma_batch.failures" not in table.schema.metadata


def test_a_part_without_answers_is_valid() -> None:
    """All rows of a unit may fail."""
    data = build_results(columns(0), SCHEMA, {"rows": 1}, [{"number": 0}])
    assert pq.read_table(io.BytesIO(data)).num_rows == 0
    assert read_receipt(data) == ({"rows": 1}, [{"number": 0}])


def test_several_samples_and_logprobs() -> None:
    """With n > 1 the answers are lists; logprobs only when asked for."""
    shape = AnswerShape(samples=2, logprobs=True)
    schema = results_schema(KEEP, shape.fields(), shape.details())
    assert schema.names[-2:] == ["seconds", "logprobs"], "the order of parts of older versions"
    data = columns(1, output=[["a", "b"]], finish_reason=[["stop", "length"]], logprobs=["[]"])
    row = pq.read_table(io.BytesIO(build_results(data, schema, {}))).to_pylist()[0]
    assert (row["output"], row["finish_reason"], row["logprobs"]) == (
        ["a", "b"], ["stop", "length"], "[]"
    )  # fmt: skip
    assert "logprobs" not in SCHEMA.names


def test_text_that_has_no_bytes_does_not_cost_a_commit() -> None:
    """A lone surrogate becomes a question mark."""
    data = build_results(columns(2, output=["\ud800x", "fine"]), SCHEMA, {})
    assert pq.read_table(io.BytesIO(data))["output"].to_pylist() == ["?x", "fine"]


def test_errors_hold_the_input_row_as_json() -> None:
    """So that it can be run again; a row that could not be read has none."""
    row = {"t": "é", "when": DAY, "b": b"\x00\xff", "x": math.nan, "d": Decimal("1.5"),
           "s": "\ud800"}  # fmt: skip
    written = {
        "ticket": [1, None],
        "day": pa.chunked_array([[DAY, None]], pa.date32()),
        "id": ["a", "b"],
        "code": ["bad_row"] * 2,
        "message": ["m"] * 2,
        "attempts": [0, 1],
        "route": ["all"] * 2,
        "row": unpack(pack(raw_rows([Row(0, row), Row(1, None)], "s3://x")))["row"],
        "shard": ["s3://x"] * 2,
        "row_number": [2**40, 1],
    }
    table = pq.read_table(io.BytesIO(build_errors(written, KEEP, 2)))
    assert table.schema.equals(errors_schema(KEEP))
    first, second = table.to_pylist()
    assert json.loads(first["row"]) == {
        "t": "é", "when": "2026-01-02", "x": None, "d": "1.5", "s": "?",
        "b": {"bytes": 2, "sha256": hashlib.sha256(b"\x00\xff").hexdigest()},
    }  # fmt: skip
    assert (first["ticket"], first["day"], first["row_number"]) == (1, DAY, 2**40)
    assert second["row"] is None
    generation, read = read_errors(build_errors(written, KEEP, 2))
    assert generation == 2
    assert read().equals(table)


def test_a_large_unit_is_built_fast() -> None:
    """8192 rows with 2 KB answers in a fraction of a second."""
    data = columns(8192, output=[f"{i} " * 400 for i in range(8192)])
    started = time.process_time()
    build_results(data, SCHEMA, {})
    assert time.process_time() - started < 2


NAMES = [
    (PartKey(12, 40960), "part-00012-0000040960.parquet"),
    (PartKey(0, 0, "long"), "part-00000-0000000000-long.parquet"),
    (PartKey(1, 2, generation=1), "part-00001-0000000002-retry1.parquet"),
    (PartKey(123456, 10**11, "a_b1", 12), "part-123456-100000000000-a_b1-retry12.parquet"),
]


@pytest.mark.parametrize(("key", "name"), NAMES)
def test_names_say_which_unit(key: PartKey, name: str) -> None:
    """There and back; the base is the first generation."""
    assert key.name == name
    assert parse_part_name(name) == key
    assert key.base == PartKey(key.shard, key.first_row, key.route)
    assert hash(key.base) == hash(PartKey(key.shard, key.first_row, key.route, 0))


def test_parts_of_a_step_before_the_last_are_kept_apart() -> None:
    """A step is one more dimension of the key: same unit, same name, another folder."""
    last, draft = PartKey(12, 40960, "long"), PartKey(12, 40960, "long", step="draft")
    assert last != draft
    assert last.path == f"results/{last.name}"
    assert draft.path == f"_run/steps/draft/{last.name}"
    assert parse_part_name(draft.name, "draft") == draft


@pytest.mark.parametrize(
    "name", ["part-1-2.parquet", "part-00012-0000040960.parquet.tmp", "x", "_SUCCESS",
             "part-00012-0000040960-retry0.parquet", "part-00012-0000040960-A.parquet"]
)  # fmt: skip
def test_foreign_names_are_no_parts(name: str) -> None:
    """A file that somebody else left in the folder is not counted."""
    assert parse_part_name(name) is None


def test_a_foreign_file_named_like_a_part_is_refused(tmp_path: Path) -> None:
    """With its path, and what to do."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), sink)
    store = open_store(str(tmp_path))
    for data in (sink.getvalue(), b"noise", b""):
        store.put("results/part-x", data)
        with pytest.raises(OutputError, match=r"results/part-x.*no readable receipt"):
            read_receipt(store.open("results/part-x"))


def test_the_reserved_columns_are_all_of_ours() -> None:
    """Planning refuses to keep a column of that name."""
    shape = AnswerShape(logprobs=True)
    ours = {*results_schema(pa.schema([]), shape.fields(), shape.details()).names}
    assert ours | {*errors_schema(pa.schema([])).names} == RESERVED_COLUMNS


KEPT = [
    (pa.string(), 5, "5"),
    (pa.string(), True, "true"),
    (pa.string(), {"a": [1, "é"]}, '{"a": [1, "é"]}'),
    (pa.string(), DAY, "2026-01-02"),
    (pa.string(), Decimal("1.50"), "1.50"),
    (pa.large_string(), "x", "x"),
    (pa.int8(), 2.0, 2),
    (pa.float64(), 3, 3.0),
    (pa.binary(), b"\xff", b"\xff"),
    (pa.list_(pa.string()), ["a", None, 1], ["a", None, "1"]),
    (pa.struct([("a", pa.int64()), ("b", pa.string())]), {"b": "x"}, {"a": None, "b": "x"}),
    (pa.map_(pa.string(), pa.int64()), {"k": 1}, [("k", 1)]),
    (pa.timestamp("us"), DAY, datetime.datetime(2026, 1, 2)),
    (pa.decimal128(10, 2), Decimal("1.5"), Decimal("1.50")),
    (pa.duration("us"), datetime.timedelta(1), datetime.timedelta(1)),
]


@pytest.mark.parametrize(("kind", "value", "expected"), KEPT)
def test_kept_values_are_whole(kind: pa.DataType, value: Any, expected: Any) -> None:
    """What fits goes in and comes out equal; only text takes values of other types."""
    schema = pa.schema([("x", kind)])
    check_keep({"x": value}, schema)
    check_keep({}, schema)
    assert keep_column([None, value], kind).to_pylist() == [None, expected]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.int64(), 2.5),
        (pa.int64(), "5"),
        (pa.int64(), True),
        (pa.int8(), 300),
        (pa.int64(), 2**70),
        (pa.float64(), 2**60 + 1),
        (pa.float64(), "x"),
        (pa.bool_(), 1),
        (pa.binary(), "x"),
        (pa.date32(), datetime.datetime(2026, 1, 2, 3)),
        (pa.decimal128(5, 2), Decimal("1.234")),
        (pa.struct([("a", pa.int64())]), {"a": 1, "new": 2}),
        (pa.list_(pa.int64()), [1, "x"]),
        (pa.list_(pa.int64()), "12"),
        (pa.map_(pa.string(), pa.int64()), [1]),
        (pa.string(), "\ud800"),
    ],
)
def test_what_would_be_changed_is_refused(kind: pa.DataType, value: Any) -> None:
    """Arrow itself would cut, drop or misread several of these without a word."""
    with pytest.raises(ValueError, match="kept column 'x'"):
        check_keep({"x": value}, pa.schema([("x", kind)]))
    assert keep_column([value], kind).to_pylist() == [None]


def test_keep_value_of_nothing() -> None:
    """Null fits everywhere."""
    assert keep_value(None, pa.int64()) is None


ANY = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.binary(), st.dates(),
        st.text(st.characters(exclude_categories=("Cs",))), st.decimals(), st.uuids(),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.dates(), inner),
    max_leaves=8,
)  # fmt: skip


@given(value=ANY)
def test_anything_has_json(value: Any) -> None:
    """Valid JSON by the strictest reading: no NaN, no Infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(as_json(value), parse_constant=refuse)
    assert isinstance(as_text(value), str)


def test_text_of_single_values_has_no_quotes() -> None:
    """A kept UUID reads as one."""
    assert as_text(uuid.UUID(int=1)) == "00000000-0000-0000-0000-000000000001"
    assert as_text(1.5) == "1.5"
