"""Parquet: row groups into spans, any type into plain values, corruption into InputError."""

from __future__ import annotations

import datetime
import io
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gemma_batch.errors import InputError
from gemma_batch.rows import Row
from gemma_batch.storage.interfaces import InputFile
from gemma_batch.storage.readers.parquet import ParquetReader

Put = Callable[[str, bytes], InputFile]
READER = ParquetReader()


def parquet(table: pa.Table, groups: list[int] | None = None, **options: Any) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        start = 0
        for rows in groups or [table.num_rows]:
            writer.write_table(table.slice(start, rows), row_group_size=max(rows, 1))
            start += rows
    return sink.getvalue()


def rows_of(file: InputFile, max_rows: int, max_bytes: int = 10**12, **kw: Any) -> list[Row]:
    rows: list[Row] = []
    for span in READER.index(file, max_rows=max_rows, max_bytes=max_bytes):
        assert span.first_row == len(rows)
        assert 0 < span.rows <= max_rows
        found = list(READER.read(file, span, kw.get("columns")))
        assert [row.number for row in found] == list(range(len(rows), len(rows) + span.rows))
        rows += found
    return rows


@pytest.mark.parametrize("groups", [[100], [10] * 10, [1, 0, 60, 3, 36]])
@pytest.mark.parametrize("max_rows", [7, 25, 1000])
def test_every_row_once(put_anywhere: Put, groups: list[int], max_rows: int) -> None:
    """However row groups and spans lie to each other."""
    table = pa.table({"n": list(range(100)), "t": [f"row {i}" for i in range(100)]})
    file = put_anywhere("x.parquet", parquet(table, groups))
    assert [row.values for row in rows_of(file, max_rows)] == table.to_pylist()
    assert READER.schema(file) == table.schema


def test_small_row_groups_are_merged_and_big_ones_split(put_anywhere: Put) -> None:
    """By rows and by uncompressed bytes, into pieces of equal length."""
    table = pa.table({"t": ["x" * 1000 + str(i) for i in range(100)]})
    file = put_anywhere("x.parquet", parquet(table, [10, 10, 10, 70], use_dictionary=False))
    by_rows = READER.index(file, max_rows=30, max_bytes=10**9)
    assert [span.rows for span in by_rows] == [30, 23, 23, 24]
    by_bytes = READER.index(file, max_rows=1000, max_bytes=25_000)
    assert [span.rows for span in by_bytes] == [20, 10, 23, 23, 24]
    assert all(15_000 > span.bytes / span.rows > 900 for span in by_bytes)


def test_only_the_columns_asked_for_are_read(put: Put) -> None:
    """A corrupt column nobody wants costs nothing; no columns at all still count rows."""
    table = pa.table({"a": [1, 2], "a.b": [3, 4], "s": [{"x": 1}, {"x": 2}]})
    file = put("x.parquet", parquet(table))
    read = lambda columns: [row.values for row in rows_of(file, 5, columns=columns)]  # noqa: E731
    assert read(["a"]) == [{"a": 1}, {"a": 2}]
    assert read(["s", "none"]) == [{"s": {"x": 1}}, {"s": {"x": 2}}]
    assert read([]) == [{}, {}]


NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
UTC = NOW.replace(tzinfo=datetime.UTC)
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("kind", "value", "plain", "expected"),
    [
        (pa.int8(), 5, "int8", 5),
        (pa.float16(), 1.5, "halffloat", 1.5),
        (pa.bool_(), True, "bool", True),
        (pa.large_string(), "é", "large_string", "é"),
        (pa.string_view(), "é", "string", "é"),
        (pa.binary(), b"\xff", "binary", b"\xff"),
        (pa.date32(), NOW.date(), "date32[day]", NOW.date()),
        (pa.timestamp("ms", "UTC"), UTC, None, UTC.replace(microsecond=678000)),
        (pa.timestamp("ns"), NOW, "timestamp[ns]", NOW),
        (pa.list_(pa.timestamp("ns")), [NOW], "list<element: timestamp[ns]>", [NOW]),
        (pa.time64("ns"), NOW.time(), "time64[ns]", NOW.time()),
        (pa.duration("ns"), datetime.timedelta(1), "duration[ns]", datetime.timedelta(1)),
        (pa.decimal128(10, 2), Decimal("1.50"), "decimal128(10, 2)", Decimal("1.50")),
        (pa.dictionary(pa.int32(), pa.string()), "x", "string", "x"),
        (pa.list_(pa.struct([("a", pa.int64())])), [{"a": 1}], None, [{"a": 1}]),
        (pa.map_(pa.string(), pa.int64()), [("k", 1)], None, {"k": 1}),
        (pa.uuid(), ID, "string", str(ID)),
    ],
)
def test_values_are_plain_python(
    put: Put, kind: pa.DataType, value: Any, plain: str | None, expected: Any
) -> None:
    """Of exactly Python's own types, and null is None; the schema says what they became."""
    array = pa.array([value, None], pa.float32()) if pa.types.is_float16(kind) else None
    column = array.cast(kind) if array is not None else pa.array([value, None], kind)
    file = put("x.parquet", parquet(pa.table({"x": column})))
    first, second = (row.values or {} for row in rows_of(file, 2))
    assert (first["x"], second["x"]) == (expected, None)
    assert type(first["x"]) is type(expected)
    if plain is not None:
        assert str(READER.schema(file).field("x").type).replace("item", "element") == plain


def test_a_value_python_cannot_hold_costs_one_row(put: Put) -> None:
    """A date in the year 292,277 and text that is no UTF-8."""
    times = pa.array([0, 2**62, 0, 0], pa.int64()).cast(pa.timestamp("us"))
    texts = pa.array([b"a", b"b", b"\xff", b"d"]).view(pa.string())
    rows = rows_of(put("x.parquet", parquet(pa.table({"t": times, "s": texts}))), 4)
    assert [row.failure is None for row in rows] == [True, False, False, True]
    assert [row.failure.code for row in rows if row.failure] == ["bad_row"] * 2
    assert "column 't'" in rows[1].failure.message  # type: ignore[union-attr]
    assert "column 's'" in rows[2].failure.message  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "broken", [b"", b"PAR1", b"hello" * 10, b"cut"], ids=["empty", "magic", "noise", "cut"]
)
def test_a_corrupt_file_is_found_by_the_footer(put_anywhere: Put, broken: bytes) -> None:
    """Schema and index name the file."""
    data = parquet(pa.table({"a": list(range(1000))}))
    file = put_anywhere("x.parquet", data[:-50] if broken == b"cut" else broken)
    for look in (READER.schema, lambda f: READER.index(f, max_rows=9, max_bytes=9)):
        with pytest.raises(InputError, match=r"x\.parquet' is corrupt"):
            look(file)


def test_corruption_in_the_middle_is_an_input_error_after_the_good_rows(put_anywhere: Put) -> None:
    """The rows before it are read; the caller fails the others."""
    table = pa.table({"a": [f"text {i}" for i in range(1000)]})
    data = bytearray(parquet(table, [500, 500], use_dictionary=False, compression="zstd"))
    second = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    start = second.data_page_offset + second.total_compressed_size // 2
    data[start : start + 20] = b"\x00" * 20
    file = put_anywhere("x.parquet", bytes(data))
    (span,) = READER.index(file, max_rows=5000, max_bytes=10**9)
    found: list[Row] = []
    with pytest.raises(InputError, match="corrupt"):
        found.extend(READER.read(file, span, None))
    good, bad = READER.index(file, max_rows=500, max_bytes=10**9)
    assert len(list(READER.read(file, good, None))) == 500
    with pytest.raises(InputError, match="corrupt"):
        list(READER.read(file, bad, None))


def test_a_column_name_that_occurs_twice_is_refused_where_it_is_read(put: Put) -> None:
    """Nobody could say which one is meant; the other columns can be read."""
    table = pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "b"])
    file = put("x.parquet", parquet(table))
    (span,) = READER.index(file, max_rows=9, max_bytes=2**20)
    assert READER.schema(file).names == ["a", "a", "b"]
    for every in (["b"], None):
        assert [row.values for row in READER.read(file, span, every)] == [{"b": 3}]
    for columns in (["a"], ["b", "a"]):
        with pytest.raises(InputError, match="'a' more than once"):
            list(READER.read(file, span, columns))


def test_a_large_row_group_is_not_read_whole(put: Put) -> None:
    """Rows of 1 MB come in batches of a few; the first ones cost about their own size."""
    table = pa.table({"t": [str(i % 10) * 2**20 for i in range(60)]})
    file = put("x.parquet", parquet(table, use_dictionary=False, write_batch_size=1))
    span = READER.index(file, max_rows=1000, max_bytes=2**40)[0]
    del table
    before = pa.total_allocated_bytes()
    rows = READER.read(file, span, ["t"])
    assert next(rows).values == {"t": "0" * 2**20}
    assert pa.total_allocated_bytes() - before < 40 * 2**20
